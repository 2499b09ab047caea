"""The rows that the router knows a task, or the background, by. Knows nothing of models and scores.

Everything the router computes comes from these, so whoever holds them can add a task, take one away and
set the thresholds anew without the base.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from fleet.routing.content import content_digest
from fleet.routing.features import Bytes

__all__ = [
    "EXAMPLE",
    "FOLDS",
    "INPUT",
    "LIMIT",
    "Changes",
    "Evidence",
    "Pick",
    "fold_of_group",
    "pick_rows",
    "spread",
]

LIMIT = 512
"""Inputs kept of a task."""
CROSSINGS = 4
"""Inputs that each routing example is put beside."""
SHARE = 16
"""One changed input is learned from for so many rows, at most."""
SNIPPET = 120
FOLDS = 5

INPUT, CROSSED, EXAMPLE = 0, 1, 2
"""A training input; an example with an input below or above it; an example alone."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A text that the router is to learn from."""

    text: str
    source: str
    kind: int
    fold: int
    """The fold that it is held out in."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Some of a task's inputs, changed a little (``fleet.routing.stability``)."""

    rows: Bytes
    """``[p, W]``."""
    grams: csr_matrix
    """``[p, lexical.BUCKETS]``."""
    origins: NDArray[np.int32]
    """``[p]``: the row of each before the change."""
    ways: NDArray[np.int32]
    """``[p]``: how it was changed."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A task's rows in the router's space, and where each came from."""

    digest: str
    """Of the data it was made from, as the caller gave it."""
    rows: Bytes
    """``[n, W]``."""
    grams: csr_matrix
    """``[n, lexical.BUCKETS]``: which n-grams each row holds."""
    tokens: NDArray[np.int32]
    """``[n]``: of each row."""
    kinds: tuple[int, ...]
    folds: tuple[int, ...]
    snippets: tuple[str, ...]
    sources: tuple[str, ...]
    languages: Mapping[str, int]
    """How many rows are in which language, those of which it is sure."""
    changes: Changes | None = None
    """Learned from as well: what a change moves is then no difference between tasks."""

    def learned(self) -> tuple[Bytes, csr_matrix, NDArray[np.int64]]:
        """Rows, n-grams and folds of all that is learned from: the rows, and those changed a little."""
        folds = np.array(self.folds, np.int64)
        if self.changes is None or len(self.rows) < SHARE:
            return self.rows, self.grams, folds
        moved = np.flatnonzero((self.changes.rows != self.rows[self.changes.origins]).any(1))
        some = moved[spread(len(moved), len(self.rows) // SHARE)]
        return (
            np.concatenate([self.rows, self.changes.rows[some]]),
            vstack([self.grams, self.changes.grams[some]], format="csr"),
            np.concatenate([folds, folds[self.changes.origins[some]]]),
        )

    def __post_init__(self) -> None:
        lengths = {
            len(self.rows),
            self.grams.shape[0],
            len(self.tokens),
            len(self.kinds),
            len(self.folds),
            len(self.snippets),
            len(self.sources),
        }
        if len(lengths) != 1 or not len(self.rows):
            raise ValueError("a task's evidence needs rows, each with its kind, fold, snippet and source")

    @classmethod
    def of(
        cls,
        digest: str,
        picks: Sequence[Pick],
        rows: Bytes,
        grams: csr_matrix,
        tokens: Iterable[int],
        languages: Mapping[str, int] | None = None,
        changes: Changes | None = None,
    ) -> Evidence:
        """Rows ``[n, W]`` of the picks, in their order, with their n-grams and numbers of tokens."""
        return cls(
            digest,
            rows,
            grams,
            np.fromiter(tokens, np.int32),
            tuple(pick.kind for pick in picks),
            tuple(pick.fold for pick in picks),
            tuple(" ".join(pick.text.split())[:SNIPPET] for pick in picks),
            tuple(pick.source for pick in picks),
            dict(languages or {}),
            changes,
        )


def pick_rows(texts: Sequence[str], examples: Sequence[str], sources: Sequence[str]) -> list[Pick]:
    """At most ``LIMIT`` inputs, the examples, and each example beside a few inputs.

    Chosen by the hash of the content: the order of the files does not matter. Inputs that say the same
    are held out together, an example together with the inputs that say the same or that it is put beside,
    so that a held-out row shares nothing with those seen.
    """
    places = {
        text: source for text, source in reversed(list(zip(texts, sources, strict=True))) if text.strip()
    }
    chosen = sorted(places, key=_hash)[:LIMIT]
    folds: dict[int, int] = {}
    for text in chosen:
        folds.setdefault(content_digest(text), len(folds) % FOLDS)
    picks = [Pick(text, places[text], INPUT, folds[content_digest(text)]) for text in chosen]
    inputs = list(picks)
    usual = sorted(set(folds.values()))
    for number, example in enumerate(dict.fromkeys(e for e in examples if e.strip())):
        source = f"routing.examples[{number}]"
        fold = folds.get(content_digest(example), usual[number % len(usual)] if usual else number % FOLDS)
        picks.append(Pick(example, source, EXAMPLE, fold))
        beside = sorted(
            (pick for pick in inputs if pick.fold == fold), key=lambda pick: _hash(example + "\n" + pick.text)
        )
        for turn, pick in enumerate(beside[:CROSSINGS]):
            text = f"{pick.text}\n{example}" if turn % 2 else f"{example}\n{pick.text}"
            picks.append(Pick(text, f"{source} + {pick.source}", CROSSED, fold))
    return picks


def spread(count: int, some: int) -> NDArray[np.int64]:
    """``some`` of ``count`` places, or all, evenly and in order.

    Steps of the golden ratio: no period in what lies there can hide a part of it, as it could with a stride.
    """
    turns = np.arange(count) * ((5**0.5 - 1) / 2) % 1
    return np.sort(np.argsort(turns, kind="stable")[:some])


def fold_of_group(groups: Sequence[str]) -> NDArray[np.int64]:
    """The fold of each background row ``[m]``: whole groups are held out, so each is new to the judge."""
    order = {group: n % FOLDS for n, group in enumerate(sorted(set(groups), key=_hash))}
    return np.array([order[group] for group in groups])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
