"""Pairs of tasks that could not be told apart, and the rows that collide. Knows no files and no trunk.

A held-out row is confused with another task when it scores for that one at least as high as for its own.
By default it is the letters that score; whoever has more of a router brings its scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from fleet.routing.content import content_digest, words
from fleet.routing.lexical import BUCKETS, Lexicon, grams

__all__ = ["ALIKE", "Collision", "Held", "find_collisions", "judge_letters"]

ALIKE = 0.3
"""Share of the held-out rows of two tasks, the mean of both ways, that are confused where we warn: a router
that tosses a coin confuses half."""
FEWEST = 10
"""Rows of a task from which a share says something."""
LIMIT = 200
"""Rows of a task that are judged,"""
JUDGED = 20_000
"""and in all, spread evenly over the tasks."""
FOLDS = 5
SHOWN = 3
"""Pairs of rows that are named."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Held:
    """Rows of one task, judged by a model that had not seen them."""

    rows: tuple[int, ...]
    """Which of the task's texts."""
    scores: Doubles
    """``[n, tasks]``, in the order of the tasks; NaN for a task of which the model saw nothing."""


@dataclass(frozen=True, slots=True)
class Collision:
    """Two tasks whose rows the router would give to each other."""

    first: str
    second: str
    there: float
    """Share of the first one's held-out rows that are confused with the second; NaN for too few."""
    back: float
    twins: int
    """Rows that are in both, whatever their case and punctuation."""
    rows: tuple[tuple[int, int], ...]
    """Some that collide: a text of the first, and the nearest one of the second."""

    @property
    def alike(self) -> bool:
        """Whether it concerns the tasks as a whole, not a row or two."""
        return (self.there + self.back) / 2 >= ALIKE


def find_collisions(
    texts: Mapping[str, Sequence[str]], held: Mapping[str, Held] | None = None
) -> list[Collision]:
    """Every pair of tasks that are alike, or that share rows; of all their texts."""
    names = list(texts)
    held = judge_letters(texts) if held is None else held
    confused = np.full((len(names), len(names)), np.nan)
    for n, name in enumerate(names):
        if len(held[name].rows) >= FEWEST:
            scores = held[name].scores
            confused[n] = (scores >= scores[:, [n]]).mean(0)
    shared = _twins(texts)
    found = []
    for a, b in combinations(range(len(names)), 2):
        first, second = names[a], names[b]
        twins = shared.get((first, second), [])
        pair = Collision(
            first, second, float(confused[a, b]), float(confused[b, a]), len(twins), tuple(twins[:SHOWN])
        )
        if pair.alike and len(twins) < SHOWN:
            near = _nearest(texts[first], texts[second], _lost(held[first], a, b), _lost(held[second], b, a))
            rows = dict.fromkeys([*twins, *near])
            pair = Collision(first, second, pair.there, pair.back, pair.twins, tuple(rows)[:SHOWN])
        if pair.alike or twins:
            found.append(pair)
    return found


def judge_letters(texts: Mapping[str, Sequence[str]]) -> dict[str, Held]:
    """Each fold's rows under the letters of all other folds.

    A row's fold follows from its content, so that a text in two tasks is held out of both at once.
    """
    limit = max(FEWEST, min(LIMIT, JUDGED // max(len(texts), 1)))
    keys = {name: [content_digest(text) for text in rows] for name, rows in texts.items()}
    chosen = {name: sorted(range(len(all_)), key=all_.__getitem__)[:limit] for name, all_ in keys.items()}
    letters = {name: grams([texts[name][n] for n in picked]) for name, picked in chosen.items()}
    folds = {
        name: np.array([keys[name][n] % FOLDS for n in picked], np.int64) for name, picked in chosen.items()
    }
    scores = {name: np.full((len(picked), len(texts)), np.nan) for name, picked in chosen.items()}
    for fold in range(FOLDS):
        outside = {name: letters[name][folds[name] != fold] for name in texts}
        columns = np.array([n for n, name in enumerate(texts) if outside[name].shape[0]], np.int64)
        if not len(columns):
            continue
        seen = [csr_matrix(rows.sum(0)) for rows in outside.values() if rows.shape[0]]
        lexicon = Lexicon.fit(vstack(seen, format="csr").astype(np.float64), np.zeros(BUCKETS))
        for name in texts:
            here = np.flatnonzero(folds[name] == fold)
            if len(here):
                scores[name][np.ix_(here, columns)] = lexicon.scores(letters[name][here])
    return {name: Held(tuple(picked), scores[name]) for name, picked in chosen.items()}


def _twins(texts: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    places: dict[str, dict[str, int]] = {}
    for name, rows in texts.items():
        for n, text in enumerate(rows):
            if said := words(text):
                places.setdefault(said, {}).setdefault(name, n)
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for where in places.values():
        for first, second in combinations(where, 2):
            found.setdefault((first, second), []).append((where[first], where[second]))
    return found


def _lost(held: Held, own: int, other: int) -> list[int]:
    """Texts that are confused with the other task."""
    lost = np.flatnonzero(held.scores[:, other] >= held.scores[:, own])
    return [held.rows[n] for n in lost]


def _nearest(
    first: Sequence[str], second: Sequence[str], lost: Sequence[int], lost_back: Sequence[int]
) -> list[tuple[int, int]]:
    """Confused rows of either, each with the row of the other that shares most of its letters; best first."""
    a, b = grams([first[n] for n in lost]), grams([second[n] for n in lost_back])
    if not a.shape[0] or not b.shape[0]:
        return []
    sizes = np.outer(np.sqrt(np.diff(a.indptr)), np.sqrt(np.diff(b.indptr)))
    cosines = (a @ b.T).toarray() / np.maximum(sizes, 1)
    partners = cosines.argmax(1)
    order = np.argsort(-cosines.max(1), kind="stable")
    return [(lost[n], lost_back[partners[n]]) for n in order[:SHOWN]]
