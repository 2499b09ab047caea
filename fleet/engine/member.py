"""One task of a cohort: its rows, the order in which they come, and where its training stands.

Knows no model and no other member. Order and learning rate follow from the seed and the step alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fleet.engine.checkpoint import TaskState
from fleet.engine.prompt import Renderer, TokenRow
from fleet.engine.specs import Example, TaskSpec, TextSpec


@dataclass(slots=True)
class Member:
    """A task in training; its parameters are those of ``slot`` in the cohort's bank."""

    spec: TaskSpec
    slot: int
    optimiser: torch.optim.Optimizer
    rows: list[TokenRow] = field(default_factory=list)
    plan: list[list[list[int]]] = field(default_factory=list)
    """Row indices by epoch and optimiser step."""
    vocabulary: Tensor | None = None
    """Sorted token ids that the loss is computed over; None is the whole vocabulary."""
    left: list[int] = field(default_factory=list)
    """Tokens still to be trained on before each optimiser step, and 0 behind the last."""
    state: TaskState = field(default_factory=TaskState)
    error: str | None = None
    resumed: bool = False
    torn: bool = False
    """In the middle of an update: what is in memory now must not become a checkpoint."""

    @property
    def running(self) -> bool:
        return self.error is None and not self.state.finished

    @property
    def steps(self) -> int:
        return sum(len(epoch) for epoch in self.plan)

    @property
    def batch(self) -> list[int]:
        """The rows of the next optimiser step."""
        return self.plan[self.state.epoch][self.state.position]

    @property
    def epoch_ended(self) -> bool:
        return self.state.position == len(self.plan[self.state.epoch])

    @property
    def learning_rate(self) -> float:
        """Of the next step: it rises linearly over the first share of all steps, then falls to zero."""
        rising = max(1, round(self.steps * self.spec.train.warmup))
        if self.state.step < rising:
            return self.spec.train.learning_rate * ((self.state.step + 1) / rising)
        left = (self.steps - self.state.step) / max(1, self.steps - rising)
        return self.spec.train.learning_rate * left

    def render(self, examples: Sequence[Example], renderer: Renderer, device: str) -> None:
        """Make rows and plan; a row that cannot be rendered is the member's failure and nobody else's."""
        try:
            self.rows = [renderer.row(self.spec, example) for example in examples]
        except Exception as error:  # one task's bad row is that task's failure
            self.error = f"{type(error).__name__}: {error}"
            return
        if not self.rows:
            self.error = "there are no training rows"
            return
        self.plan = [_epoch(self.rows, self.spec, epoch) for epoch in range(self.spec.train.epochs)]
        for batch in reversed([batch for epoch in self.plan for batch in epoch]):
            tokens = sum(len(self.rows[i].ids) for i in batch)
            self.left.append(tokens + (self.left[-1] if self.left else 0))
        self.left = [*reversed(self.left), 0]
        if not isinstance(self.spec.constraint, TextSpec):
            seen = {token for row in self.rows for token in row.ids}
            self.vocabulary = torch.tensor(sorted(seen), device=device)


def _epoch(rows: Sequence[TokenRow], spec: TaskSpec, epoch: int) -> list[list[int]]:
    """One epoch's optimiser steps as lists of row indices; depends on seed and epoch alone."""
    generator = torch.Generator().manual_seed(spec.train.seed * 1_000_003 + epoch)
    plan: list[list[int]] = []
    tokens = 0
    for index in torch.randperm(len(rows), generator=generator).tolist():
        length = len(rows[index].ids)
        if not plan or tokens + length > spec.train.batch_tokens:
            plan.append([])
            tokens = 0
        plan[-1].append(index)
        tokens += length
    return plan
