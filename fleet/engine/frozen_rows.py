"""Training rows below the first adapted layer: frozen, so computed once and kept while there is room.

Knows nothing of adapters, losses or optimisers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fleet.engine.batch import Batch
from fleet.engine.gemma import Gemma
from fleet.engine.prompt import TokenRow
from fleet.engine.trunk import batches

MICRO_TOKENS = 2048
"""Tokens of one pass; bounds the memory, changes no result beyond rounding."""
KEPT_TRUNK_BYTES = 1_280_000_000
"""Trunk states kept across epochs; a million tokens of 640 bf16 values. What is over is recomputed."""


class FrozenRows:
    """Hidden states of training rows below the first adapted layer; kept while there is room.

    A task's rows are computed in the task's own order before the first step, so that neither the
    cohort's company nor a resumed run changes the rounding.
    """

    def __init__(self, model: Gemma, first: int) -> None:
        self._model = model
        self._first = first
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._room = KEPT_TRUNK_BYTES // (model.config.hidden * model.dtype.itemsize)
        """Tokens that may be kept still."""

    def prepare(self, slot: int, rows: Sequence[TokenRow]) -> None:
        """Compute and keep a task's rows, the shortest first, as far as there is room."""
        for chunk in batches([len(row.ids) for row in rows], MICRO_TOKENS):
            if len(rows[chunk[0]].ids) > self._room:
                return  # chunks come by length: none of the rows that follow fits either
            for index, part in zip(chunk, self._compute([rows[i] for i in chunk]), strict=True):
                if len(part) <= self._room:
                    self._room -= len(part)
                    # A copy: a slice would keep the whole chunk alive.
                    self._kept[slot, index] = part.clone()

    def states(self, rows: Sequence[tuple[tuple[int, int], TokenRow]]) -> Tensor:
        """Packed ``[M, D]`` for rows named by (slot, index)."""
        missing = [(key, row) for key, row in rows if key not in self._kept]
        made = dict(zip((key for key, _ in missing), self._compute([row for _, row in missing]), strict=True))
        return torch.cat([self._kept[key] if key in self._kept else made[key] for key, _ in rows])

    def _compute(self, rows: Sequence[TokenRow]) -> tuple[Tensor, ...]:
        if not rows:
            return ()
        lengths = [len(row.ids) for row in rows]
        with torch.no_grad():
            ids = torch.tensor([i for row in rows for i in row.ids], device=self._model.device)
            batch = Batch.of(lengths, device=self._model.device)
            states: tuple[Tensor, ...] = self._model.run(
                self._model.embed(ids), batch, (0, self._first)
            ).split(lengths)
        return states
