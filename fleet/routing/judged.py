"""Held-out rows under one scale: where each would go, and whether that is right. Knows no budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fleet.routing.budget import Thresholds
from fleet.routing.calibrate import Scale
from fleet.routing.heldout import HeldOut

__all__ = ["Judged", "foreign"]

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judged:
    """n held-out rows under one scale."""

    fit: Doubles
    top: Doubles
    """Probability of the likeliest task."""
    column: NDArray[np.int64]
    """Of the likeliest task."""
    right: Mask

    @classmethod
    def of(cls, scores: Doubles, scale: Scale, truth: NDArray[np.int64] | None) -> Judged:
        """Fused scores ``[n, tasks]`` of rows of these tasks; of none, without ``truth``."""
        if not len(scores):
            return cls(np.empty(0), np.empty(0), np.empty(0, np.int64), np.empty(0, bool))
        column = scores.argmax(1)
        right = np.zeros(len(scores), bool) if truth is None else column == truth
        return cls(scores.max(1), scale.probabilities(scores).max(1), column, right)

    @classmethod
    def joined(cls, *parts: Judged) -> Judged:
        """One after the other."""
        return cls(
            np.concatenate([part.fit for part in parts]),
            np.concatenate([part.top for part in parts]),
            np.concatenate([part.column for part in parts]),
            np.concatenate([part.right for part in parts]),
        )

    def routed(self, thresholds: Thresholds, names: Sequence[str]) -> Mask:
        """Which of them the thresholds let go to a task."""
        least = np.array([thresholds.least(name) for name in names])
        return np.asarray((self.fit >= thresholds.fit) & (self.top >= least[self.column]))


def foreign(held: HeldOut, scale: Scale) -> dict[str, Judged]:
    """Rows that no task takes, by kind: the background, every row with its own task left out (``loto``),
    and the fleet's own (``foreign``); those of which there are any."""
    scores = scale.fused(held.views)
    tasks = scores.shape[1]
    others = np.where(np.arange(tasks) == held.truth[:, None], -np.inf, scores)
    found = {
        "background": Judged.of(scale.fused(held.background), scale, None),
        "loto": Judged.of(others if tasks > 1 else np.empty((0, 1)), scale, None),
        "foreign": Judged.of(scale.fused(held.own), scale, None),
    }
    return {kind: rows for kind, rows in found.items() if len(rows.fit)}
