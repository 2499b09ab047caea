"""The rows that the router knows a task, or the background, by. Knows nothing of models and scores.

Everything the router computes comes from these, so whoever holds them can add a task, take one away and
set the thresholds anew without the base.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXAMPLE", "FOLDS", "INPUT", "LIMIT", "Evidence", "Pick", "fold_of_group", "pick_rows"]

LIMIT = 512
"""Inputs kept of a task."""
CROSSINGS = 3
"""Inputs that each routing example is put in front of."""
SNIPPET = 120
FOLDS = 5

INPUT, CROSSED, EXAMPLE = 0, 1, 2
"""A training input; an example with an input below it; an example alone."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A text that the router is to learn from."""

    text: str
    source: str
    kind: int
    fold: int
    """The fold that it is held out in; -1 if never."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A task's rows in the router's space, and where each came from."""

    digest: str
    """Of the data it was made from, as the caller gave it."""
    rows: NDArray[np.float16]
    """``[n, D]``."""
    kinds: tuple[int, ...]
    folds: tuple[int, ...]
    snippets: tuple[str, ...]
    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.rows), len(self.kinds), len(self.folds), len(self.snippets), len(self.sources)}
        if len(lengths) != 1 or not len(self.rows):
            raise ValueError("a task's evidence needs rows, each with its kind, fold, snippet and source")

    @classmethod
    def of(cls, digest: str, picks: Sequence[Pick], rows: NDArray[np.float16]) -> Evidence:
        """Rows ``[n, D]`` of the picks, in their order."""
        return cls(
            digest,
            rows,
            tuple(pick.kind for pick in picks),
            tuple(pick.fold for pick in picks),
            tuple(" ".join(pick.text.split())[:SNIPPET] for pick in picks),
            tuple(pick.source for pick in picks),
        )


def pick_rows(texts: Sequence[str], examples: Sequence[str], sources: Sequence[str]) -> list[Pick]:
    """At most ``LIMIT`` inputs, the examples, and each example above a few inputs.

    Chosen by the hash of the content: the order of the files does not matter. A crossed row is held out
    together with its input, so that a held-out input is never seen.
    """
    places = {
        text: source for text, source in reversed(list(zip(texts, sources, strict=True))) if text.strip()
    }
    chosen = sorted(places, key=_hash)[:LIMIT]
    picks = [Pick(text, places[text], INPUT, n % FOLDS) for n, text in enumerate(chosen)]
    for number, example in enumerate(dict.fromkeys(e for e in examples if e.strip())):
        source = f"routing.examples[{number}]"
        picks.append(Pick(example, source, EXAMPLE, -1))
        below = sorted(picks[: len(chosen)], key=lambda pick: _hash(example + "\n" + pick.text))[:CROSSINGS]
        picks += [Pick(f"{example}\n{p.text}", f"{source} + {p.source}", CROSSED, p.fold) for p in below]
    return picks


def fold_of_group(groups: Sequence[str]) -> NDArray[np.int64]:
    """The fold of each background row ``[m]``: whole groups are held out, so each is new to the judge."""
    order = {group: n % FOLDS for n, group in enumerate(sorted(set(groups), key=_hash))}
    return np.array([order[group] for group in groups])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
