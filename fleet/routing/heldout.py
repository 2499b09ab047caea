"""Rows judged by models that had not seen them. Knows no thresholds.

Held-out inputs, alone and beside an instruction, stand for jobs. Held-out groups of the background, the
fleet's own jobs of nobody, and every task's inputs under the scores of the other tasks (leave one task out;
the covariance still holds its rows), stand for jobs that nobody takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from fleet.routing.evidence import EXAMPLE, FOLDS, INPUT, Evidence, spread
from fleet.routing.features import Bytes
from fleet.routing.statistics import Corpus, Model, Statistics

__all__ = ["NEVER", "Changed", "HeldOut", "Views", "auroc", "cross_validate"]

JUDGED = 20_000
"""Rows that are judged in all, and changed ones: spread evenly over tasks and over the kinds of rows,"""
LEAST = 16
"""but never fewer than so many of a task that has them."""
NEVER = -1e6
"""Score of a task of which the judge saw nothing."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Views:
    """Scores of n rows for every task, in the three views of ``statistics.Model``."""

    means: Doubles
    """``[n, tasks]``: relative Mahalanobis distance over means,"""
    states: Doubles
    """and over means and spreads."""
    letters: Doubles
    """``[n, tasks]``: log-odds of the letters."""

    def __len__(self) -> int:
        return len(self.means)

    @property
    def tasks(self) -> int:
        return int(self.means.shape[1])

    @classmethod
    def joined(cls, parts: list[Views], tasks: int) -> Views:
        none = np.empty((0, tasks))
        return cls(
            np.concatenate([none, *(part.means for part in parts)]),
            np.concatenate([none, *(part.states for part in parts)]),
            np.concatenate([none, *(part.letters for part in parts)]),
        )


@dataclass(frozen=True, slots=True)
class Changed:
    """Scores of p rows before and after a small change."""

    before: Views
    after: Views
    ways: NDArray[np.int32]
    """``[p]``: how each was changed."""
    truth: NDArray[np.int64]
    """``[p]``: column of its task."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Scores of rows by models that had not seen them."""

    views: Views
    truth: NDArray[np.int64]
    """``[m]``: column of each row's task."""
    inputs: NDArray[np.bool_]
    """``[m]``: whether it is an input alone; the others carry an instruction."""
    background: Views
    own: Views
    """The fleet's own jobs of nobody."""
    changed: Changed


def cross_validate(tasks: Mapping[str, Evidence], corpus: Corpus, statistics: Statistics) -> HeldOut:
    """Judge each fold's rows, and each fold's background groups, by a model of all other folds."""
    names = list(tasks)
    each = max(LEAST, JUDGED // len(names))
    views: list[Views] = []
    beyond: list[Views] = []
    own: list[Views] = []
    common = np.arange(len(corpus.folds)) < len(corpus.folds) - corpus.own
    truth = [np.empty(0, np.int64)]
    inputs = [np.empty(0, np.bool_)]
    before: list[Views] = []
    after: list[Views] = []
    ways = [np.empty(0, np.int32)]
    changed_truth = [np.empty(0, np.int64)]
    for fold in range(FOLDS):
        try:
            model = statistics.model(without=fold)
        except ValueError:
            continue
        columns = [names.index(name) for name in model.names]
        judge = _Judge(model, corpus.means, columns, len(names))
        for found, kind in ((beyond, common), (own, np.logical_not(common))):
            outside = (corpus.folds == fold) & kind
            found.append(judge(corpus.rows[outside], corpus.grams[outside]))
        held_rows, origins, changed = _Pile(), _Pile(), _Pile()
        for column, name in zip(columns, model.names, strict=True):
            task = tasks[name]
            kinds = np.array(task.kinds)
            held = np.flatnonzero((np.array(task.folds) == fold) & (kinds != EXAMPLE))
            held = held[spread(len(held), each // FOLDS + 1)]
            held_rows.add(task.rows, task.grams, held)
            truth.append(np.full(len(held), column, np.int64))
            inputs.append(kinds[held] == INPUT)
            if task.changes is not None:
                mine = np.flatnonzero(np.array(task.folds)[task.changes.origins] == fold)
                mine = mine[spread(len(mine), each // FOLDS + 1)]
                origins.add(task.rows, task.grams, task.changes.origins[mine])
                changed.add(task.changes.rows, task.changes.grams, mine)
                ways.append(task.changes.ways[mine])
                changed_truth.append(np.full(len(mine), column, np.int64))
        views += held_rows.judged(judge)
        before += origins.judged(judge)
        after += changed.judged(judge)
    return HeldOut(
        Views.joined(views, len(names)),
        np.concatenate(truth),
        np.concatenate(inputs),
        Views.joined(beyond, len(names)),
        Views.joined(own, len(names)),
        Changed(
            Views.joined(before, len(names)),
            Views.joined(after, len(names)),
            np.concatenate(ways),
            np.concatenate(changed_truth),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Pile:
    """Rows of many tasks that are judged together."""

    rows: list[Bytes] = field(default_factory=list)
    grams: list[csr_matrix] = field(default_factory=list)

    def add(self, rows: Bytes, grams: csr_matrix, some: NDArray[np.integer[Any]]) -> None:
        self.rows.append(rows[some])
        self.grams.append(grams[some])

    def judged(self, judge: _Judge) -> list[Views]:
        if not self.rows:
            return []
        return [judge(np.concatenate(self.rows), vstack(self.grams, format="csr"))]


@dataclass(frozen=True, slots=True)
class _Judge:
    """A model of some of the tasks, which says nothing of the others."""

    model: Model
    means: NDArray[np.bool_]
    columns: list[int]
    """Of its tasks among all."""
    tasks: int

    def __call__(self, rows: Bytes, grams: csr_matrix) -> Views:
        means, states = (np.full((len(rows), self.tasks), NEVER) for _ in range(2))
        letters = np.zeros((len(rows), self.tasks))
        if len(rows):
            means[:, self.columns] = self.model.means.scores(rows[:, self.means])
            states[:, self.columns] = self.model.states.scores(rows)
            letters[:, self.columns] = self.model.lexicon.scores(grams)
        return Views(means, states, letters)


def auroc(positive: Doubles, negative: Doubles) -> float:
    """Probability that a positive outranks a negative, ties counting half."""
    if not len(positive) or not len(negative):
        return float("nan")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / (2 * len(negative)))
