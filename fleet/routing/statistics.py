"""Sums over a fleet's evidence, by fold, from which a model with or without any fold is made. Exact.

Knows nothing of thresholds and files. A task is added and taken away by adding and subtracting its sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from fleet.routing.discriminant import Discriminant, Moments, gram
from fleet.routing.evidence import FOLDS, Evidence
from fleet.routing.features import Bytes
from fleet.routing.lexical import Lexicon

__all__ = ["Corpus", "Model", "Statistics"]


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
class Statistics:
    """Sums of products of all rows, one for each fold."""

    products: tuple[NDArray[np.float64], ...]
    """``[W, W]`` for each fold."""

    @classmethod
    def of(cls, tasks: Mapping[str, Evidence], corpus: Corpus) -> Statistics:
        """Over these tasks and the background."""
        width = corpus.rows.shape[1]
        none = cls(tuple(np.zeros((width, width)) for _ in range(FOLDS)))
        some = none._with(corpus.rows, corpus.folds, 1)
        for each in tasks.values():
            some = some.plus(each)
        return some

    def plus(self, task: Evidence) -> Statistics:
        """With a task's rows."""
        rows, _, folds = task.learned()
        return self._with(rows, folds, 1)

    def minus(self, task: Evidence) -> Statistics:
        """Without a task's rows, which must be in it."""
        rows, _, folds = task.learned()
        return self._with(rows, folds, -1)

    def _with(self, rows: Bytes, folds: NDArray[np.int64], sign: int) -> Statistics:
        return Statistics(
            tuple(
                held + sign * gram(rows[folds == fold]) if (folds == fold).any() else held
                for fold, held in enumerate(self.products)
            )
        )

    def model(self, tasks: Mapping[str, Evidence], corpus: Corpus, without: int | None = None) -> Model:
        """Over the same tasks and background, in the order given; of rows outside one fold, if wished.

        Raises ``ValueError`` if nothing of any task, or of the background, is left.
        """
        kept: dict[str, tuple[Bytes, csr_matrix]] = {}
        for name, each in tasks.items():
            rows, grams, folds = each.learned()
            if (mask := folds != without).any():
                kept[name] = rows[mask], grams[mask]
        names = tuple(kept)
        outside = corpus.folds != without
        if not names or not outside.any():
            raise ValueError("no rows are left to fit on")
        products = sum(each for fold, each in enumerate(self.products) if fold != without)
        moments = [Moments.of(rows) for rows, _ in kept.values()]
        ground = Moments.of(corpus.rows[outside])
        states = Discriminant.fit(moments, ground, np.asarray(products))
        columns = corpus.means
        means = Discriminant.fit(
            [Moments.of(rows[:, columns]) for rows, _ in kept.values()],
            Moments.of(corpus.rows[outside][:, columns]),
            np.asarray(products)[np.ix_(columns, columns)],
        )
        counts = vstack([csr_matrix(grams.sum(0)) for _, grams in kept.values()], format="csr")
        general = np.asarray(corpus.grams[outside].sum(0), dtype=np.float64).ravel()
        return Model(names, means, states, Lexicon.fit(counts.astype(np.float64), general))
