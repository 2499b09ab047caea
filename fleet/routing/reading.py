"""What the router reads of jobs: pooled states of the trunk, n-grams, length. Knows nothing of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from fleet.engine.base import Base
from fleet.engine.prompt import Renderer
from fleet.engine.trunk import POOLED_TOKENS, TrunkState, run_trunk
from fleet.routing.features import stack
from fleet.routing.lexical import grams
from fleet.routing.tidy import tidy

__all__ = ["Readings", "read_texts"]

CHUNK = 256
"""Texts whose trunk states are held at once."""


@dataclass(frozen=True, slots=True)
class Readings:
    """Of n jobs, in their order."""

    raw: NDArray[np.float32]
    """``[n, W]``: ``features.stack`` of the tapped layers."""
    grams: csr_matrix
    """``[n, lexical.BUCKETS]``."""
    tokens: tuple[int, ...]
    """Of each text."""
    texts: tuple[str, ...]
    """Tidied."""

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(
        cls,
        states: Sequence[TrunkState],
        texts: Sequence[str],
        taps: Sequence[int],
        tokens: Sequence[int] | None = None,
    ) -> Readings:
        """From trunk states, tapped after these layers, and the tidied texts that they are of.

        ``tokens`` of each text, where the trunk ran over its beginning only.
        """
        return cls(
            stack([state.pooled for state in states], taps),
            grams(texts),
            tuple(len(state.ids) - 1 for state in states) if tokens is None else tuple(tokens),
            tuple(texts),
        )

    @classmethod
    def joined(cls, parts: Sequence[Readings]) -> Readings:
        """One after the other; at least one."""
        return cls(
            np.concatenate([part.raw for part in parts]),
            vstack([part.grams for part in parts], format="csr"),
            tuple(count for part in parts for count in part.tokens),
            tuple(text for part in parts for text in part.texts),
        )


def read_texts(base: Base, texts: Sequence[str], taps: Sequence[int]) -> Readings:
    """What the router reads of canonical texts, tidied; no more of long ones than what is pooled."""
    renderer = Renderer.of(base.tokenizer)
    parts = []
    for start in range(0, len(texts), CHUNK):
        chunk = [tidy(text) for text in texts[start : start + CHUNK]]
        ids = [renderer.job_ids(text) for text in chunk]
        states = run_trunk(base.model, max(taps), [each[: 1 + POOLED_TOKENS] for each in ids], taps=taps)
        parts.append(Readings.of(states, chunk, taps, [len(each) - 1 for each in ids]))
    return Readings.joined(parts)
