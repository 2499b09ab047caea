"""What is measured: a random Gemma, a bank of random experts, jobs and tasks. No file is read.

Values are drawn on the device itself, seeded, and of a scale that keeps every layer's output near one, as
trained weights do: time does not depend on them, overflow and ties would. Knows nothing of clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from benchmarks.on_device.size import Size
from fleet.engine.adapters import AdapterBank
from fleet.engine.base import Base
from fleet.engine.decode import Request
from fleet.engine.gemma import FINAL_NORM, Gemma, weight_name
from fleet.engine.gemma_config import GemmaConfig
from fleet.engine.label_constraint import LabelConstraint, LabelTrie
from fleet.engine.specs import Example, LabelSpec, LoraSpec, PromptSpec, TaskSpec, TextSpec, TrainSpec
from fleet.engine.testing import CORPUS, tiny_tokenizer
from fleet.engine.text_constraint import TextConstraint
from fleet.engine.train import TrainTask, Validation
from fleet.engine.trunk import TrunkState

SUFFIX = (17, 18, 19)
LABELS = ("good", "bad", "neutral", "mixed")
LABELS_EACH = 4
FIRST_TOKEN = 32
"""Ids below are kept for the end, the suffix and the like."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A base on a device and a bank for serving, every slot of it filled."""

    base: Base
    bank: AdapterBank
    size: Size

    @property
    def model(self) -> Gemma:
        return self.base.model

    @classmethod
    def make(cls, size: Size, device: str, *, seed: int = 0) -> Subject:
        model = Gemma(size.config, random_weights(size.config, device, seed))
        bank = AdapterBank(
            size.config,
            max(size.experts),
            size.lora.rank,
            size.lora.layers,
            dtype=model.dtype,
            device=device,
        )
        generator = torch.Generator(device).manual_seed(seed + 1)
        for slot in range(bank.slots):
            fill(bank, slot, size.lora, generator)
        return cls(Base(model, tokenizer(), "random", Path()), bank, size)


def random_weights(config: GemmaConfig, device: str, seed: int) -> dict[str, Tensor]:
    """bf16 weights under transformers' names."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(shape: tuple[int, ...], deviation: float) -> Tensor:
        return (torch.randn(shape, generator=generator, device=device) * deviation).bfloat16()

    weights = {"model.embed_tokens.weight": normal((config.vocab, config.hidden), config.hidden**-0.5)}
    for layer in range(config.layers):
        for name, shape in config.layer_shapes().items():
            deviation = shape[1] ** -0.5 if len(shape) == 2 else 0.1
            weights[weight_name(layer, name)] = normal(shape, deviation)
    weights[FINAL_NORM] = normal((config.hidden,), 0.1)
    return weights


def fill(bank: AdapterBank, slot: int, lora: LoraSpec, generator: torch.Generator) -> None:
    """Put a random adapter into a slot: as initialised, and as if B had learnt a little."""
    bank.occupy(slot, lora)
    with torch.no_grad():
        for name, matrix in bank.parameters(slot).items():
            deviation = matrix.shape[1] ** -0.5 if name.endswith("lora_A.weight") else 0.02
            matrix.normal_(0.0, deviation, generator=generator)


def tokenizer() -> PreTrainedTokenizerFast:
    """The engine's tiny tokenizer; its ids are a small part of any base's."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


class Alphabet:
    """What constraints ask of a vocabulary whose tokens spell their numbers; the end is never text."""

    eos = 1

    def __init__(self, size: int) -> None:
        self.size = size
        self.special = frozenset(range(FIRST_TOKEN))
        self.spelling = [b" %d" % index for index in range(size)]
        self.text_mask = np.ones(size, dtype=np.bool_)
        self.text_mask[:FIRST_TOKEN] = False

    def encode(self, text: str) -> list[int]:
        """A label is the number of its token."""
        return [int(text)]


@dataclass(frozen=True, slots=True)
class Job:
    """One job's ids and the expert that answers it."""

    ids: tuple[int, ...]
    expert: int
    """Its slot; -1 is the bare base."""


def random_jobs(size: Size, count: int, experts: int, *, seed: int = 0) -> list[Job]:
    """Jobs of uniform length for experts drawn by Zipf's law: the k-th is asked 1/k as often as the first."""
    rng = np.random.default_rng(seed)
    often = 1.0 / np.arange(1, experts + 1)
    chosen = rng.choice(experts, count, p=often / often.sum())
    lengths = rng.integers(size.lengths[0], size.lengths[1] + 1, count)
    return [
        Job((2, *rng.integers(FIRST_TOKEN, size.config.vocab, n - 1).tolist()), int(expert))
        for n, expert in zip(lengths, chosen, strict=True)
    ]


class Answering:
    """Starts the experts' answers: every expert has labels of its own, as tasks do."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._alphabet = Alphabet(size.config.vocab)
        self._tries: dict[int, LabelTrie] = {}

    def request(self, number: int, job: Job, state: TrunkState, text_tokens: int = 0) -> Request:
        """A classification, or with ``text_tokens`` a free text of so many."""
        text = TextSpec()
        return Request(
            job_id=str(number),
            state=state,
            suffix=SUFFIX,
            constraint=TextConstraint(self._alphabet, text)  # type: ignore[arg-type]
            if text_tokens
            else LabelConstraint(self._trie(job.expert)),
            slot=job.expert,
            max_output_tokens=text_tokens or 8,
            first_layer=self._size.depth,
            sampling=text if text_tokens else None,
        )

    def _trie(self, expert: int) -> LabelTrie:
        if expert not in self._tries:
            rng = np.random.default_rng(expert + 1)  # -1 is the bare base
            ids = rng.choice(np.arange(FIRST_TOKEN, self._size.config.vocab), LABELS_EACH, replace=False)
            labels = LabelSpec(tuple(map(str, ids.tolist())))
            self._tries[expert] = LabelTrie(self._alphabet, labels)  # type: ignore[arg-type]
        return self._tries[expert]


def random_tasks(size: Size, count: int) -> list[TrainTask]:
    """Classification tasks of the size's rows; validation is free, so that only training is timed."""
    words = CORPUS.split()
    rng = np.random.default_rng(0)

    def rows() -> Sequence[Example]:
        # A word is about two tokens of the tiny tokenizer.
        counts = rng.integers(size.lengths[0] // 2, size.lengths[1] // 2, size.rows)
        return [
            Example({"text": " ".join(rng.choice(words, n))}, LABELS[int(rng.integers(len(LABELS)))])
            for n in counts
        ]

    return [
        TrainTask(
            TaskSpec(
                f"task-{number}",
                PromptSpec(suffix="\n\nLabel:"),
                LabelSpec(LABELS),
                "accuracy",
                size.lora,
                TrainSpec(epochs=size.epochs, seed=number),
            ),
            rows(),
            lambda bank, slot: Validation(0.0, 0.0),
        )
        for number in range(count)
    ]
