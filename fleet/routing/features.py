"""From the trunk's pooled states to the space that the router measures in. Knows nothing of tasks.

A job is, for every tapped layer, the mean and the standard deviation of its hidden states. Each of these
blocks is centred, normalised to unit length and divided by the spread of each dimension, then rounded to
one byte. Centre and spread are those of the background (``fleet.routing.background``), so the space is
the same for every fleet over one base, and adding or removing a task never moves another.

Bytes are whole numbers: sums of their products come out exactly the same in any order, so statistics can
be added and taken away without a trace (``fleet.routing.discriminant``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["LIMIT", "POOLS", "Bytes", "Floats", "Frame", "stack", "taps_of"]

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.int8]

POOLS = ("mean", "spread")
"""Blocks of one tapped layer: mean and standard deviation of the hidden states."""
STEPS = 16
"""Of one standard deviation of the background; CLINC150 is routed as well with them as with floats."""
LIMIT = 127

_BLANK = 1 - 1e-4
"""Cosine to the state of ``<bos>`` alone above which a job holds no text at all."""


def taps_of(depth: int) -> tuple[int, ...]:
    """The layers that a trunk of this depth is tapped after: its end and two thirds of the way there."""
    return tuple(sorted({max(1, 2 * depth // 3), depth}))


def stack(pooled: Sequence[Mapping[int, Tensor]], taps: Sequence[int]) -> NDArray[np.float32]:
    """``TrunkState.pooled`` of n jobs to raw features ``[n, len(taps) * len(POOLS) * D]`` fp32."""
    rows = [np.concatenate([mine[tap].float().cpu().numpy() for tap in taps]) for mine in pooled]
    return np.stack(rows).astype(np.float32) if rows else np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the space has its origin, how long its axes are, and where a job without text lies.

    A row of width ``W`` is ``blocks`` blocks of equal width.
    """

    centre: NDArray[np.float32]
    """``[W]``, raw."""
    spread: NDArray[np.float32]
    """``[W]``: standard deviation of the background's centred, normalised features."""
    blank: NDArray[np.float32]
    """``[W]``, raw features of ``<bos>`` alone."""
    blocks: int

    def __post_init__(self) -> None:
        if self.blocks < 1 or len(self.centre) % self.blocks:
            raise ValueError(f"{len(self.centre)} features are not {self.blocks} blocks of equal width")
        if not (self.spread > 0).all():
            raise ValueError("a spread is not above zero")

    @classmethod
    def of(cls, background: Floats, blank: Floats, blocks: int) -> Frame:
        """The frame that raw background features ``[n, W]`` set."""
        centre = background.astype(np.float64).mean(0)
        spread = _unit(background - centre, blocks).std(0)
        floor = max(float(spread.mean()) * 1e-3, 1e-12)
        return cls(
            centre.astype(np.float32),
            np.maximum(spread, floor).astype(np.float32),
            blank.astype(np.float32),
            blocks,
        )

    @property
    def means(self) -> NDArray[np.bool_]:
        """``[W]``: which columns are of means."""
        pools = np.repeat(np.arange(self.blocks) % len(POOLS), len(self.centre) // self.blocks)
        return np.asarray(pools == POOLS.index("mean"))

    def place(self, raw: Floats) -> Bytes:
        """Raw ``[n, W]`` to the router's space: what is stored is what is computed with."""
        placed = _unit(raw.astype(np.float32) - self.centre, self.blocks) / self.spread
        return np.asarray(np.clip(np.rint(placed * STEPS), -LIMIT, LIMIT), dtype=np.int8)

    def is_blank(self, raw: Floats) -> NDArray[np.bool_]:
        """Which rows of ``[n, W]`` hold no text, or nothing that could be measured."""
        finite = np.asarray(np.isfinite(raw).all(axis=1))
        cosine = _unit(np.where(finite[:, None], raw, 0.0), 1) @ _unit(self.blank[None], 1)[0]
        return np.asarray(np.logical_not(finite) | (cosine > _BLANK))


def _unit(x: Floats, blocks: int) -> Floats:
    parts = x.reshape(len(x), blocks, -1)
    return np.asarray(parts / np.maximum(np.linalg.norm(parts, axis=2, keepdims=True), 1e-12)).reshape(
        x.shape
    )
