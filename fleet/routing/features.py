"""From the trunk's means to the space that the router measures in. Knows nothing of tasks.

A job is the concatenation of the mean hidden states at the tapped layers, centred, normalised to unit
length and divided by the spread of each dimension. Centre and spread are those of the background
(``fleet.routing.background``), so the space is the same for every fleet over one base, and adding or
removing a task never moves another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Floats", "Frame", "stack", "taps_of"]

Floats = NDArray[np.floating[Any]]

_BLANK = 1 - 1e-4
"""Cosine to the state of ``<bos>`` alone above which a job holds no text at all."""


def taps_of(depth: int) -> tuple[int, ...]:
    """The layers that a trunk of this depth is tapped after: its end and two thirds of the way there."""
    return tuple(sorted({max(1, 2 * depth // 3), depth}))


def stack(means: Sequence[Mapping[int, Tensor]], taps: Sequence[int]) -> Floats:
    """``TrunkState.means`` of n jobs to raw features ``[n, len(taps) * D]`` fp32."""
    rows = [np.concatenate([mean[tap].float().cpu().numpy() for tap in taps]) for mean in means]
    return np.stack(rows).astype(np.float32) if rows else np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the space has its origin, how long its axes are, and where a job without text lies."""

    centre: Floats
    """``[D]`` fp32, raw."""
    spread: Floats
    """``[D]`` fp32: standard deviation of the background's centred, normalised features."""
    blank: Floats
    """``[D]`` fp32, raw features of ``<bos>`` alone."""

    @classmethod
    def of(cls, background: Floats, blank: Floats) -> Frame:
        """The frame that raw background features ``[n, D]`` set."""
        centre = background.astype(np.float64).mean(0)
        spread = _unit(background - centre).std(0)
        floor = max(float(spread.mean()) * 1e-3, 1e-12)
        return cls(centre.astype(np.float32), np.maximum(spread, floor).astype(np.float32), blank)

    def place(self, raw: Floats) -> NDArray[np.float16]:
        """Raw ``[n, D]`` to the router's space, rounded to fp16: what is stored is what is computed with."""
        placed = _unit(raw.astype(np.float32) - self.centre) / self.spread
        return np.clip(placed, -6e4, 6e4).astype(np.float16)

    def is_blank(self, raw: Floats) -> NDArray[np.bool_]:
        """Which rows of ``[n, D]`` hold no text, or nothing that could be measured."""
        finite = np.asarray(np.isfinite(raw).all(axis=1))
        cosine = _unit(np.where(finite[:, None], raw, 0.0)) @ _unit(self.blank[None])[0]
        return np.asarray(np.logical_not(finite) | (cosine > _BLANK))


def _unit(x: Floats) -> Floats:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
