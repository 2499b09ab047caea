"""Sums over a fleet's evidence, by fold, from which a model with or without any fold is made. Exact.

Knows nothing of thresholds and files. A task is added and taken away by adding and subtracting its sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, identity, kron, vstack

from fleet.routing.discriminant import Discriminant, Moments, gram
from fleet.routing.evidence import FOLDS, Evidence
from fleet.routing.features import Bytes
from fleet.routing.lexical import Lexicon

__all__ = ["Corpus", "Model", "Statistics", "Sums"]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The background: rows, n-grams, and the fold of each."""

    rows: Bytes
    """``[m, W]``."""
    grams: csr_matrix
    """``[m, lexical.BUCKETS]``."""
    folds: NDArray[np.int64]
    """``[m]``."""
    means: NDArray[np.bool_]
    """``[W]``: columns of means (``features.Frame.means``)."""
    own: int = 0
    """How many of the rows, the last ones, are a fleet's own jobs of nobody."""


@dataclass(frozen=True, slots=True)
class Model:
    """Three views of some tasks."""

    names: tuple[str, ...]
    means: Discriminant
    """Over the means alone: few dimensions, for broad tasks of few rows."""
    states: Discriminant
    """Over means and spreads: finer, for tasks that lie close together."""
    lexicon: Lexicon


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one task's rows, or of the background's, by fold."""

    n: NDArray[np.int64]
    """``[FOLDS]``."""
    totals: NDArray[np.float64]
    """``[FOLDS, W]``."""
    fourth: NDArray[np.float64]
    """``[2, FOLDS]``, over means alone and over all: of distances to the mean of all folds, of which one left
    out moves it too little to matter for a shrinkage."""
    grams: csr_matrix
    """``[FOLDS, lexical.BUCKETS]``: rows that hold each n-gram."""

    @classmethod
    def of(cls, rows: Bytes, grams: csr_matrix, folds: NDArray[np.int64], means: NDArray[np.bool_]) -> Sums:
        """Of n rows ``[n, W]`` with their n-grams and folds; ``means`` tells the columns of means."""
        member = csr_matrix(
            (np.ones(len(rows), np.float32), (folds, np.arange(len(rows)))), (FOLDS, len(rows))
        )
        totals = np.stack([rows[folds == fold].sum(0, dtype=np.int64) for fold in range(FOLDS)])
        away = (rows - (totals.sum(0) / len(rows)).astype(np.float32)) ** 2
        fourth = [part.sum(1, dtype=np.float64) ** 2 for part in (away[:, means], away)]
        return cls(
            np.bincount(folds, minlength=FOLDS),
            totals.astype(np.float64),
            np.stack([np.bincount(folds, each, minlength=FOLDS) for each in fourth]),
            (member @ grams).tocsr(),
        )

    def moments(self, kept: NDArray[np.bool_], means: NDArray[np.bool_]) -> tuple[Moments, Moments]:
        """Over these folds: of the columns of means alone, and of all."""
        n, total, fourth = int(self.n[kept].sum()), self.totals[kept].sum(0), self.fourth[:, kept].sum(1)
        return Moments(n, total[means], float(fourth[0])), Moments(n, total, float(fourth[1]))


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of a fleet and the background: each task's sums, and the products of all rows together."""

    means: NDArray[np.bool_]
    """``[W]``: columns of means."""
    products: tuple[NDArray[np.float64], ...]
    """``[W, W]`` for each fold: sums of outer products of everybody's rows."""
    ground: Sums
    tasks: Mapping[str, Sums]
    """In the order of their names."""

    @classmethod
    def of(cls, tasks: Mapping[str, Evidence], corpus: Corpus) -> Statistics:
        """Over these tasks and the background."""
        learned = [(corpus.rows, corpus.grams, corpus.folds), *(each.learned() for each in tasks.values())]
        products = []
        for fold in range(FOLDS):  # in large pieces: each piece writes the whole matrix anew
            products.append(gram(np.concatenate([rows[folds == fold] for rows, _, folds in learned])))
        ground, *sums = (Sums.of(*each, corpus.means) for each in learned)
        return cls(corpus.means, tuple(products), ground, dict(sorted(zip(tasks, sums, strict=True))))

    def plus(self, name: str, task: Evidence) -> Statistics:
        """With a task."""
        sums = Sums.of(*task.learned(), self.means)
        return self._with(task, 1, dict(sorted({**self.tasks, name: sums}.items())))

    def minus(self, name: str, task: Evidence) -> Statistics:
        """Without a task that is in it with this evidence."""
        return self._with(task, -1, {each: sums for each, sums in self.tasks.items() if each != name})

    def _with(self, task: Evidence, sign: int, tasks: Mapping[str, Sums]) -> Statistics:
        rows, _, folds = task.learned()
        products = tuple(
            held + sign * gram(rows[folds == fold]) if (folds == fold).any() else held
            for fold, held in enumerate(self.products)
        )
        return replace(self, products=products, tasks=tasks)

    def model(self, without: int | None = None) -> Model:
        """Over all rows, or those outside one fold; of the tasks that have any there.

        Raises ``ValueError`` if nothing of any task, or of the background, is left.
        """
        kept = np.arange(FOLDS) != without
        names = tuple(name for name, each in self.tasks.items() if each.n[kept].any())
        if not names or not self.ground.n[kept].any():
            raise ValueError("no rows are left to fit on")
        every = [*(self.tasks[name] for name in names), self.ground]
        products = np.add.reduce([each for fold, each in enumerate(self.products) if kept[fold]])
        of_means, of_all = zip(*(each.moments(kept, self.means) for each in every), strict=True)
        states = Discriminant.fit(of_all[:-1], of_all[-1], products)
        means = Discriminant.fit(of_means[:-1], of_means[-1], products[np.ix_(self.means, self.means)])
        folds = vstack([each.grams for each in every], format="csr")
        counts = (kron(identity(len(every)), kept[None], format="csr") @ folds).astype(np.float64)
        lexicon = Lexicon.fit(counts[:-1], counts[-1].toarray()[0])
        return Model(names, means, states, lexicon)
