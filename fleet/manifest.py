"""What a person writes of a task: ``task.yaml``, as pydantic models that check themselves.

A manifest says what one task is; it does not know the engine, the rows or the other tasks. Lengths
count tokens of the base's tokenizer, layers are half-open ``[first, last)`` ranges. The JSON schema
for editors is made from these classes: ``python -m fleet.manifest PATH`` writes it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, PrivateAttr, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from fleet.declared import Declared, Problem, Section, load_declared
from fleet.errors import ProjectError
from fleet.json_pointer import pointer_steps
from fleet.schema_subset import unsupported_features

__all__ = [
    "Kind",
    "Manifest",
    "Metric",
    "described_schema",
    "load_manifest",
    "manifest_schema",
    "schema_is_fresh",
    "write_schema",
]

TASK_NAME = r"^[a-z][a-z0-9-]{1,62}$"

Kind = Literal["classification", "extraction", "generation"]
Metric = Literal["accuracy", "macro_f1", "span_f1", "exact_fields", "exact_match", "perplexity"]

METRICS: Mapping[str, tuple[Metric, ...]] = {
    "classification": ("macro_f1", "accuracy"),
    "extraction": ("exact_fields", "span_f1", "exact_match"),
    "generation": ("perplexity", "exact_match"),
}
"""The metrics that fit each kind, its default first."""
RANK, ALPHA = 16, 32.0
LEARNING_RATES: Mapping[str, float] = {"lora": 3e-4, "full": 5e-5}
"""By method. Whole layers move further with the same step than low-rank matrices that begin at zero."""


def _sources(value: Any) -> Any:
    """One path or several, always as a list; each is checked as text here."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(v, str) for v in listed):
        raise PydanticCustomError(
            "wrong-type", "should be a path, a glob, an hf:// address or a list of these"
        )
    if not all(v.strip() for v in listed):
        raise PydanticCustomError("blank-text", "should not be blank")
    return listed


def _sources_or_share(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _sources(value)
    if not 0 < value <= 0.5:
        raise PydanticCustomError("out-of-range", "a share of the training rows should lie in (0, 0.5]")
    return float(value)


def _meaningful(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("blank-text", "should not be blank")
    return value


def _label(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("wrong-type", "should be text: put it in quotes")
    if isinstance(value, str) and (not value.strip() or value != value.strip() or "\n" in value):
        raise PydanticCustomError("bad-label", "a label should not be blank, or begin or end with a space")
    return value


_ONE_OR_MORE: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}
Sources = Annotated[list[str], BeforeValidator(_sources), WithJsonSchema(_ONE_OR_MORE)]
Held = Annotated[
    list[str] | float,
    PlainValidator(_sources_or_share),
    WithJsonSchema(
        {"anyOf": [*_ONE_OR_MORE["anyOf"], {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}]}
    ),
]
Text = Annotated[str, BeforeValidator(_meaningful)]
Label = Annotated[str, BeforeValidator(_label), Field(max_length=100)]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]


class DataSection(Section):
    """Where the rows are."""

    train: Sources
    """Training rows: path or glob in the task's folder, ``hf://org/name/config/split``, or several."""
    eval: Held
    """Evaluation rows, as for ``train``; or a share of the training rows, split off by hash."""
    columns: dict[str, Text] = Field(default={})
    """Which column of the rows holds each input field and ``output``; a name not given is its own column."""


class AdapterSection(Section):
    """What the expert adds to the base."""

    method: Literal["lora", "full"] = "lora"
    """``lora`` trains low-rank matrices, 5 MB a version; ``full`` whole layers, 134 MB for [6, 18]."""
    rank: int | None = Field(default=None, ge=1, le=256)
    """lora only: rank of the matrices; 16 if not given."""
    alpha: float | None = Field(default=None, gt=0, le=4096)
    """lora only: strength; the update is scaled by alpha / rank. 32 if not given."""
    layers: tuple[int, int] = Field(default=(6, 18), strict=False)
    """First and one past the last layer adapted. Below the fleet's trunk, jobs cost a second pass."""


class TrainingSection(Section):
    """How the expert is optimised."""

    epochs: int = Field(default=4, ge=1, le=1000)
    """At most this many passes over the training rows."""
    learning_rate: float | None = Field(default=None, gt=0, le=0.1)
    """Peak; it rises linearly at first and then decays to zero. Default by method: lora 3e-4, full 5e-5."""
    batch_tokens: int = Field(default=512, ge=1, le=1_000_000)
    """Most tokens of rows in one optimiser step."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the adapter's first values and of the order of rows."""
    patience: int = Field(default=2, ge=1, le=1000)
    """Evaluations without improvement after which training stops."""


class EvaluationSection(Section):
    """How good the expert must be."""

    metric: Metric | None = None
    """Default by kind: macro_f1, exact_fields, perplexity. span_f1 is for records of verbatim text."""
    floor: float | None = Field(default=None, ge=0)
    """Worst value with which a version may be promoted; for perplexity, where less is better, the highest."""


class RoutingSection(Section):
    """What helps the router to know this task's jobs."""

    examples: list[Text] = Field(default=[], max_length=1000)
    """How people ask for this task, in their words."""
    max_misroute: float | None = Field(default=None, gt=0, lt=1)
    """Greatest share of the jobs routed to this task that may belong elsewhere; the fleet's if not given or
    if that is less."""


class ServingSection(Section):
    """How the expert answers."""

    max_input_tokens: int = Field(default=2048, ge=1, le=32_768)
    """Longest job; longer ones are refused, and rows that long are a fault."""
    max_output_tokens: int = Field(default=64, ge=1, le=8192)
    """Longest answer; one cut short says so and is still valid."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Generation only: 0 always takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Generation only: sample from the likeliest tokens that together have this probability."""


class Manifest(Declared):
    """One task: what goes in, what comes out, which rows teach it and how good it must be."""

    stand_ins: ClassVar[Mapping[str, Any]] = {
        "task": "stand-in",
        "description": "stand-in",
        "kind": "generation",
        "data": {"train": "train.jsonl", "eval": "eval.jsonl"},
    }
    _folder: str = PrivateAttr(default="")

    task: str = Field(pattern=TASK_NAME)
    """Name of the task and of its folder: small letters, digits and hyphens."""
    description: Text = Field(max_length=2000)
    """What the task is, in a sentence or two, for people and for tables."""
    kind: Kind
    """classification: one of ``labels``. extraction: a record of ``schema``. generation: free text."""
    input: list[FieldName] = Field(default=["text"], min_length=1, max_length=32)
    """Named fields of a job, in the order in which the expert reads them."""
    labels: list[Label] | None = Field(default=None, min_length=2, max_length=1000)
    """The possible answers of a classification."""
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    """JSON Schema of an extraction's answer; ``x-verbatim: true`` marks text copied from the input."""
    suffix: Text = Field(default="", max_length=200)
    """What follows the job and names the task to the expert; derived from the task's name if not given."""
    data: DataSection
    """Where the rows are."""
    adapter: AdapterSection = AdapterSection()
    """What the expert adds to the base."""
    training: TrainingSection = TrainingSection()
    """How the expert is optimised."""
    evaluation: EvaluationSection = EvaluationSection()
    """How good the expert must be."""
    routing: RoutingSection = RoutingSection()
    """What helps the router to know this task's jobs."""
    serving: ServingSection = ServingSection()
    """How the expert answers."""

    @property
    def folder(self) -> str:
        """The task's folder relative to the project root; ``tasks/<name>`` unless loaded elsewhere."""
        return self._folder or f"tasks/{self.task}"

    @property
    def metric(self) -> Metric:
        return self.evaluation.metric or METRICS[self.kind][0]

    @property
    def learning_rate(self) -> float:
        return self.training.learning_rate or LEARNING_RATES[self.adapter.method]

    @property
    def digest(self) -> str:
        """SHA-256 over all that a trained expert depends on; equal digests need no new training.

        Left out: ``description`` and ``routing``, which only people and the router read; the floor,
        which judges a version and does not change it; ``data``, because its content has a digest of
        its own. ``serving`` counts, since it is sealed into the artifact. Defaults are filled in.
        """
        content = self.snapshot()
        for key in ("description", "routing", "data"):
            del content[key]
        del content["evaluation"]["floor"]
        # Keys keep their order: an extraction is answered in the order its schema is written.
        canonical = json.dumps(["manifest-1", content], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def snapshot(self) -> dict[str, Any]:
        """The whole manifest as JSON values, defaults filled in; ``Manifest.model_validate`` reads it."""
        return self.model_dump(mode="json", by_alias=True)

    @model_validator(mode="after")
    def _derived_defaults(self) -> Self:
        # order-record becomes "\n\nOrder record:"
        derived = self.suffix or f"\n\n{self.task.replace('-', ' ').capitalize()}:"
        object.__setattr__(self, "suffix", derived)
        object.__setattr__(self, "evaluation", self.evaluation.model_copy(update={"metric": self.metric}))
        rate = {"learning_rate": self.learning_rate}
        object.__setattr__(self, "training", self.training.model_copy(update=rate))
        if self.adapter.method == "lora":
            lora = {"rank": self.adapter.rank or RANK, "alpha": self.adapter.alpha or ALPHA}
            object.__setattr__(self, "adapter", self.adapter.model_copy(update=lora))
        return self

    def problems(self) -> Iterator[Problem]:
        yield from self._answer_problems()
        yield from self._input_problems()
        first, last = self.adapter.layers
        if not 0 <= first < last:
            yield Problem("bad-layers", "should be [first, last) with 0 <= first < last",
                          ("adapter", "layers"), [first, last], ("adapter",))  # fmt: skip
        for name in ("rank", "alpha"):
            value = getattr(self.adapter, name)
            if self.adapter.method == "full" and value is not None:
                yield Problem("lora-only", "belongs to method lora: remove it",
                              ("adapter", name), value, ("adapter",))  # fmt: skip

    def _answer_problems(self) -> Iterator[Problem]:
        for name, kind, value in (
            ("labels", "classification", self.labels),
            ("schema", "extraction", self.schema_),
        ):
            if self.kind == kind and value is None:
                yield Problem(
                    f"missing-{name}", f"{kind} needs {name}: add it", (name,), None, ("kind", name)
                )
            if self.kind != kind and value is not None:
                yield Problem(f"stray-{name}", f"belongs to {kind} only: remove it, or change kind",
                              (name,), value, ("kind", name))  # fmt: skip
        for index, label in enumerate(self.labels or []):
            if label in (self.labels or [])[:index]:
                yield Problem(
                    "duplicate-label", "is listed twice: keep one", ("labels", index), label, ("labels",)
                )
        if self.schema_ is not None:
            yield from _schema_problems(self.schema_)
        metric, fitting = self.evaluation.metric, METRICS[self.kind]
        if metric is not None and metric not in fitting:
            yield Problem("metric-not-for-kind", f"{self.kind} is measured by {' or '.join(fitting)}",
                          ("evaluation", "metric"), metric, ("kind", "evaluation"))  # fmt: skip
        floor = self.evaluation.floor
        if floor is not None and self.metric != "perplexity" and floor > 1:
            yield Problem("out-of-range", f"a floor for {self.metric} should lie in [0, 1]",
                          ("evaluation", "floor"), floor, ("kind", "evaluation"))  # fmt: skip
        for name, default in (("temperature", 0.0), ("top_p", 1.0)):
            value = getattr(self.serving, name)
            if self.kind != "generation" and value != default:
                yield Problem("sampling-not-for-kind", "only generation samples: remove it",
                              ("serving", name), value, ("kind", "serving"))  # fmt: skip

    def _input_problems(self) -> Iterator[Problem]:
        for index, name in enumerate(self.input):
            if name in self.input[:index]:
                yield Problem(
                    "duplicate-input", "is listed twice: keep one", ("input", index), name, ("input",)
                )
            if name == "output":
                yield Problem(
                    "bad-name", "an input field cannot be called output", ("input", index), name, ("input",)
                )
        for name in self.data.columns:
            if name not in (*self.input, "output"):
                rule = f"names no input field; there are {', '.join(self.input)}, output"
                yield Problem("unknown-column", rule,
                              ("data", "columns", name), name, ("input", "data"))  # fmt: skip


def _schema_problems(schema: Mapping[str, Any]) -> Iterator[Problem]:
    for pointer, feature in unsupported_features(schema):
        steps = pointer_steps(schema, pointer)
        rule = f"{feature} cannot be used: write the schema differently"
        yield Problem("unsupported-schema", rule,
                      ("schema", *steps), None, ("schema",))  # fmt: skip
    if schema.get("type") != "object":
        yield Problem("schema-not-object", "the record should be of type object",
                      ("schema",), schema.get("type"), ("schema",))  # fmt: skip


def load_manifest(path: Path, root: Path) -> Manifest:
    """Read ``path``, a ``task.yaml`` below ``root``. Raises ManifestError with every fault and its line."""
    file, folder = _inside(path, root), path.parent.name

    def named_as_folder(raw: Mapping[str, Any]) -> Iterator[Problem]:
        if "task" in raw and raw["task"] != folder:
            yield Problem(
                "task-not-folder", f"should equal the name of its folder, {folder}", ("task",), raw["task"]
            )

    manifest = load_declared(path, file, Manifest, named_as_folder)
    manifest._folder = Path(file).parent.as_posix()
    return manifest


def described_schema(model: type[Declared]) -> dict[str, Any]:
    """The JSON Schema of ``model``; a section says at its field too what it is, where editors look."""
    schema = model.model_json_schema(by_alias=True)
    for field in schema["properties"].values():
        if "$ref" in field:
            section = schema["$defs"][field["$ref"].rpartition("/")[2]]
            field.setdefault("description", section.get("description", ""))
    return schema


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema of ``task.yaml``, for editors."""
    schema = described_schema(Manifest)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def write_schema(path: Path) -> None:
    """Write the JSON Schema of ``task.yaml`` to ``path``."""
    path.write_text(_schema_text(), encoding="utf-8")


def schema_is_fresh(path: Path) -> bool:
    """Whether ``path`` holds what :func:`write_schema` would write."""
    return path.is_file() and path.read_text(encoding="utf-8") == _schema_text()


def _schema_text() -> str:
    return json.dumps(manifest_schema(), indent=2, ensure_ascii=False) + "\n"


def _inside(path: Path, root: Path) -> str:
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError as error:
        raise ProjectError(f"{path} lies outside the project {root}: move it inside") from error


if __name__ == "__main__":
    write_schema(Path(sys.argv[1]))
