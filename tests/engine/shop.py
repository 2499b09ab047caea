"""A tiny base with three loaded experts, and requests to them."""

from __future__ import annotations

from pathlib import Path

import torch

from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.base import Base, load_base
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.decode import Completion, Request, Scheduler
from fleet.engine.prompt import Renderer
from fleet.engine.specs import ConstraintSpec, LabelSpec, LoraSpec, TextSpec
from fleet.engine.trunk import run_trunk

DEPTH = 2
_LABELS = LabelSpec(("good", "goodish", "bad"))
MIXED: list[tuple[TextSpec | LabelSpec, str, int]] = [
    (TextSpec(), "Anna met Bo", 0),
    (_LABELS, "so so", 1),
    (TextSpec(), "once upon a time there was", 2),
    (_LABELS, "never again", -1),
    (TextSpec(), "a", 0),
]
"""Constraint, job and slot: texts and labels, for several experts and the bare base."""


class Shop:
    """A base with loaded experts, by their first layers; at 0 one adapts the trunk's layers too."""

    def __init__(self, folder: Path, firsts: tuple[int, ...] = (2, 3, 0)) -> None:
        self.base: Base = load_base(folder, dtype=torch.float32)
        self.renderer = Renderer.of(self.base.tokenizer)
        self.compiler = ConstraintCompiler(self.base.tokenizer)
        self.bank = AdapterBank(self.base.model.config, len(firsts), 4, (0, 6), dtype=torch.float32)
        self.firsts = firsts
        for slot, first in enumerate(self.firsts):
            lora = LoraSpec(4, 8.0, (first, 6))
            self.bank.initialise(slot, lora, slot)
            generator = torch.Generator().manual_seed(slot)
            noisy = {
                k: t + 0.1 * torch.randn(t.shape, generator=generator)
                for k, t in self.bank.adapter(slot).tensors.items()
            }
            self.bank.load(slot, Adapter(lora, noisy))

    def request(
        self,
        name: str,
        spec: ConstraintSpec,
        job: str,
        slot: int,
        limit: int = 24,
        sampling: TextSpec | None = None,
    ) -> Request:
        """A job for the expert in a slot; a text is drawn as its spec says, other answers if asked for."""
        (state,) = run_trunk(self.base.model, DEPTH, [self.renderer.job_ids(job)])
        return Request(
            job_id=name,
            state=state,
            suffix=tuple(self.renderer.suffix_ids("\n\nAnswer:")),
            constraint=self.compiler.start(spec, job),
            slot=slot,
            max_output_tokens=limit,
            first_layer=DEPTH if slot < 0 else self.firsts[slot],
            sampling=spec if isinstance(spec, TextSpec) else sampling,
        )

    def scheduler(self, max_rows: int = 32) -> Scheduler:
        return Scheduler(self.base.model, self.bank, DEPTH, max_rows=max_rows)

    def run(self, requests: list[Request], max_rows: int = 32) -> list[Completion]:
        return self.scheduler(max_rows).run(requests)
