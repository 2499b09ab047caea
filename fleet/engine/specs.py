"""What the engine is told: frozen values that check themselves. Knows nothing of manifests.

Lengths count tokens, layers are half-open ``[first, last)`` ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Metric = Literal["accuracy", "macro_f1", "span_f1", "exact_fields", "exact_match", "perplexity"]

LORA_TARGETS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""The projection matrices of one layer that an adapter acts on."""


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise ValueError(rule)


@dataclass(frozen=True, slots=True)
class LabelSpec:
    """The answer is one of these strings."""

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(len(self.labels) >= 2, "a label constraint needs at least two labels")
        _require(len(set(self.labels)) == len(self.labels), "labels must differ")
        _require(all(label.strip() for label in self.labels), "a label must not be blank")


@dataclass(frozen=True, slots=True)
class SchemaSpec:
    """The answer is compact JSON that validates against this JSON Schema.

    A string schema with ``"x-verbatim": true`` must be copied from the job's canonical text.
    """

    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TextSpec:
    """The answer is free text; ``temperature`` 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.temperature >= 0, "temperature must not be negative")
        _require(0 < self.top_p <= 1, "top_p must lie in (0, 1]")


ConstraintSpec = LabelSpec | SchemaSpec | TextSpec


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """How a job becomes tokens: ``<bos>{job}{suffix}{target}<eos>``, each part tokenised apart."""

    fields: tuple[str, ...] = ("text",)
    suffix: str = ""

    def __post_init__(self) -> None:
        _require(len(self.fields) >= 1, "a prompt needs at least one input field")
        _require(bool(self.suffix), "a prompt needs a suffix that names the task")


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685) of layers ``[first, last)``."""

    rank: int = 16
    alpha: float = 32.0
    layers: tuple[int, int] = (6, 18)

    def __post_init__(self) -> None:
        _require(self.rank >= 1, "rank must be at least 1")
        _require(self.alpha > 0, "alpha must be positive")
        _require(0 <= self.layers[0] < self.layers[1], "layers must be [first, last) with first < last")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class FullSpec:
    """Weights of its own for layers ``[first, last)``; the final norm belongs to the base's last layer."""

    layers: tuple[int, int] = (6, 18)

    def __post_init__(self) -> None:
        _require(0 <= self.layers[0] < self.layers[1], "layers must be [first, last) with first < last")


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """One task's optimisation; every number is per task, never per cohort."""

    epochs: int = 4
    learning_rate: float = 3e-4
    batch_tokens: int = 512
    """Upper bound on the tokens of the rows in one optimiser step of this task."""
    seed: int = 0
    patience: int = 2
    """Evaluations (one per epoch) without improvement before the task stops."""
    warmup: float = 0.06
    """Share of all steps over which the learning rate rises linearly; it then decays to zero."""
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs must be at least 1")
        _require(self.learning_rate > 0, "learning_rate must be positive")
        _require(self.batch_tokens >= 1, "batch_tokens must be at least 1")
        _require(self.patience >= 1, "patience must be at least 1")
        _require(0 <= self.warmup < 1, "warmup must lie in [0, 1)")


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Everything the engine needs to know of one task."""

    name: str
    prompt: PromptSpec
    constraint: ConstraintSpec
    metric: Metric
    adapter: LoraSpec | FullSpec = field(default_factory=LoraSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    max_input_tokens: int = 2048
    max_output_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Example:
    """One row: the job's fields and the wanted output.

    ``output`` is the label, the free text, or the JSON value of the record.
    """

    fields: Mapping[str, str]
    output: Any


Weights = Literal["bf16", "int8", "int4"]
"""What the frozen weights are multiplied as. ``bf16``: as they are, in fp32 where the processor has no bf16
products (``fleet.engine.precision``). ``int8``: 8-bit products of weights and activations above the trunk
and for the whole head. ``int4``: 4-bit weights in every pass of a job but its first, and for the whole head.
An expert's own matrices, LoRA or full, stay as they are."""
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
