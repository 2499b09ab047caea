"""Who takes part: makes a server of each contender's name. Loads nothing before it is asked for.

What a contender needs stays loaded for the next measurement, so that all of them see the same machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from benchmarks.serving.agreement import Prefer
from benchmarks.serving.clients import (
    Answered,
    Server,
    StaticBatches,
    fastest,
    mates_of_expert,
    mates_of_length,
)
from benchmarks.serving.experts import filled_bank
from benchmarks.serving.gguf_files import FILE_TYPES, adapter_file, base_file, unavailable
from benchmarks.serving.llama_peer import SEQUENCES, Llama
from benchmarks.serving.ours import Ours
from benchmarks.serving.peft_peer import Peft
from benchmarks.serving.workload import LABELS, WORK, Job
from fleet.engine.adapters import AdapterBank
from fleet.engine.base import Base, load_base
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.prompt import Renderer
from fleet.engine.specs import LoraSpec, TextSpec, Weights
from fleet.engine.weights import ServedModels

OURS: Mapping[str, Weights] = {"ours": "bf16", "ours-int8": "int8", "ours-int4": "int4"}
"""Our contenders and their weights."""
PEFT = ("peft-mixed", "peft-each", "peft-score")
LLAMA = tuple(f"llama-{precision}" for precision in FILE_TYPES)
NAMES = (*OURS, *PEFT, *LLAMA)
SAME_WEIGHTS = ("ours", *PEFT, "llama-f16", "llama-bf16")
"""Contenders whose answers may differ from ours by rounding alone."""
CALIBRATION_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Setup:
    """What all contenders are given."""

    base: Path
    dtype: torch.dtype
    lora: LoraSpec
    depth: int
    adapters: Sequence[Path]
    """One folder in PEFT's format for each distinct expert."""
    slots: int
    """Slots in our bank, all of them filled."""
    peer_experts: int
    """Adapters that a peer loads."""
    cache: Path
    """Where GGUF files are kept."""
    threads: int


class Contenders:
    """The contenders of one setup."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(setup.base)
        labels = [Renderer(self.tokenizer).target_ids(f" {label}") for label in LABELS]
        self._first_labels = torch.tensor([ids[0] for ids in labels])
        self.limits = {kind: work.limit for kind, work in WORK.items()}
        """Tokens that a peer generates at most."""
        self.limits["classification"] = max(map(len, labels))
        self._llamas: dict[str, Llama] = {}
        self._served: dict[str, ServedModels] = {}

    @cached_property
    def base(self) -> Base:
        return load_base(self.setup.base, dtype=self.setup.dtype)

    def served(self, name: str) -> ServedModels:
        """Our models for a contender's weights."""
        if name not in self._served:
            self._served[name] = ServedModels.of(self.base.model, OURS[name], self.setup.depth)
        return self._served[name]

    @cached_property
    def compiler(self) -> ConstraintCompiler:
        return ConstraintCompiler(self.tokenizer)

    @cached_property
    def text_mask(self) -> Tensor:
        """Bool ``[vocabulary]`` of the ids that free text may hold."""
        mask = self.compiler.start(TextSpec()).mask()
        assert mask is not None
        return mask

    @cached_property
    def bank(self) -> AdapterBank:
        setup = self.setup
        return filled_bank(setup.base, setup.lora, setup.adapters, setup.slots, setup.dtype)

    @cached_property
    def peft(self) -> Peft:
        return Peft(self.setup.base, self._peer_adapters, self.tokenizer, self.setup.dtype)

    @property
    def _peer_adapters(self) -> list[Path]:
        adapters = self.setup.adapters
        return [adapters[expert % len(adapters)] for expert in range(self.setup.peer_experts)]

    def llama(self, name: str) -> Llama:
        """llama.cpp over one precision of the base."""
        if name not in self._llamas:
            precision = name.removeprefix("llama-")
            files = [adapter_file(folder, folder.with_suffix(".gguf")) for folder in self._peer_adapters]
            self._llamas[name] = Llama(
                base_file(self.setup.cache, precision), files, self.tokenizer, threads=self.setup.threads
            )
        return self._llamas[name]

    def absence(self, name: str, kind: str, experts: int) -> str | None:
        """Why a contender does not take part; None if it does."""
        if name == "peft-score" and kind != "classification":
            return "it only knows labels"
        if name not in OURS and experts > self.setup.peer_experts:
            return f"a peer loads {self.setup.peer_experts} adapters (--peer-experts)"
        return unavailable(self.setup.base) if name in LLAMA else None

    def server(self, name: str, calibration: Sequence[Job], clients: int) -> Server:
        """A contender that is ready; its batch size is the one that serves the calibration jobs soonest."""
        if name in OURS:
            return Ours(
                self.served(name),
                self.bank,
                self.setup.lora,
                self.compiler,
                depth=self.setup.depth,
                clients=clients,
            )
        if name == "peft-each":
            return StaticBatches(
                mates_of_expert(clients), partial(self.peft.generate_alone, limits=self.limits)
            )
        if name in LLAMA:
            return StaticBatches(
                mates_of_expert(min(clients, SEQUENCES)),
                partial(self.llama(name).generate, limits=self.limits),
            )
        short = {kind: min(limit, CALIBRATION_TOKENS) for kind, limit in self.limits.items()}
        sizes = sorted({max(clients // part, 1) for part in (1, 2, 4)})
        trials = {size: self._mixed(name, size, short) for size in sizes}
        return self._mixed(name, fastest(trials, calibration, clients), self.limits)

    def _mixed(self, name: str, size: int, limits: Mapping[str, int]) -> StaticBatches:
        generate = partial(self.peft.generate, limits=limits)
        return StaticBatches(mates_of_length(size), self._score if name == "peft-score" else generate)

    def _score(self, jobs: Sequence[Job]) -> list[Answered]:
        self.peft.prefer(
            [job.expert for job in jobs], [job.prompt for job in jobs], [self._first_labels] * len(jobs)
        )
        return [Answered(job, 1) for job in jobs]

    def prefer(self, name: str) -> Prefer:
        """How to ask a peer what it likes best."""
        return self.peft.prefer if name in PEFT else self.llama(name).prefer
