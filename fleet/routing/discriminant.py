"""Linear discriminant analysis with one covariance for all, from statistics that add up exactly.

Knows nothing of texts, thresholds or files: rows of bytes in, linear scores out. Sums of products of bytes
are whole numbers below 2**53, so a sum in float64 has no rounding: a task that is added and taken away
leaves no trace, and a fit does not depend on the order in which tasks came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from fleet.routing.features import LIMIT, Bytes

__all__ = ["Discriminant", "Moments", "gram", "shrunk_covariance"]

Doubles = NDArray[np.float64]

BORROWED = 3.0
"""Rows of the middle of all tasks that every task's mean is taken to hold besides its own."""
_EXACT = 2**24 // (LIMIT * LIMIT)
"""Rows whose products float32 sums without rounding."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What a fit needs to know of one class's rows beside their products."""

    n: int
    total: Doubles
    """``[W]``: their sum, exact."""
    fourth: float
    """Sum over rows of the fourth power of their distance to the mean."""

    @classmethod
    def of(cls, rows: Bytes) -> Moments:
        """Of ``[n, W]`` with n at least 1."""
        total = rows.sum(0, dtype=np.int64).astype(np.float64)
        away = rows - (total / len(rows)).astype(np.float32)
        return cls(len(rows), total, float(((away**2).sum(1, dtype=np.float64) ** 2).sum()))


def gram(rows: Bytes) -> Doubles:
    """Sum of outer products of ``[n, W]``: ``[W, W]``, exact."""
    width = rows.shape[1]
    found = np.zeros((width, width))
    for start in range(0, len(rows), _EXACT):
        part = rows[start : start + _EXACT].astype(np.float32)
        found += part.T @ part
    return found


def shrunk_covariance(n: int, scatter: Doubles, fourth: float) -> tuple[Doubles, float]:
    """Ledoit and Wolf's well-conditioned estimate (2004, J. Multivariate Anal. 88) and its shrinkage.

    From sums over the pooled, class-centred rows; equals scikit-learn's ``LedoitWolf(assume_centered=True)``
    on those rows.
    """
    size = len(scatter)
    covariance = scatter / n
    mu = float(np.trace(covariance)) / size
    squared = float((covariance**2).sum())
    distance = (squared - size * mu**2) / size
    noise = min((fourth / n - squared) / (n * size), distance)
    shrinkage = noise / distance if distance > 0 and noise > 0 else 0.0
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(size)] += shrinkage * mu
    return covariance, shrinkage


@dataclass(frozen=True, slots=True)
class Discriminant:
    """Relative Mahalanobis distance (Ren et al. 2021, arXiv:2106.09022) to each task, as one linear map.

    Tasks and background share the covariance, so the quadratic parts cancel:
    ``d2(x, background) - d2(x, task) = weights @ x + bias``. Positive: more like the task than like text
    in general. Half of it is the log-likelihood ratio; half of a difference between tasks is LDA's.

    A task's mean is drawn towards the middle of all tasks, as if it had ``BORROWED`` rows there (a normal
    prior on the means): the distance to a mean of few rows is otherwise mostly the noise of that mean.
    """

    weights: NDArray[np.float32]
    """``[tasks, W]``."""
    bias: NDArray[np.float32]
    """``[tasks]``."""

    @classmethod
    def fit(cls, tasks: Sequence[Moments], background: Moments, products: Doubles) -> Discriminant:
        """Over at least one task, the background, and the sum of ``gram`` of all their rows."""
        every = [*tasks, background]
        n = np.array([each.n for each in every], dtype=np.float64)
        totals = np.stack([each.total for each in every])
        scaled = totals / np.sqrt(n)[:, None]
        scatter = products - scaled.T @ scaled
        covariance, _ = shrunk_covariance(int(n.sum()), scatter, sum(each.fourth for each in every))
        # Far fewer rows than dimensions leave rounding below zero.
        covariance[np.diag_indices(len(covariance))] += 1e-9 * np.trace(covariance) / len(covariance) + 1e-12
        means = totals / n[:, None]
        if len(tasks) > 1:
            middle = means[:-1].mean(0)
            means[:-1] = (totals[:-1] + BORROWED * middle) / (n[:-1, None] + BORROWED)
        solved = cho_solve(cho_factor(covariance, lower=True, overwrite_a=True), means.T).T
        norms = (means * solved).sum(1)
        return cls(
            (2 * (solved[:-1] - solved[-1])).astype(np.float32),
            (norms[-1] - norms[:-1]).astype(np.float32),
        )

    def scores(self, rows: Bytes) -> Doubles:
        """``[n, W]`` to ``[n, tasks]``."""
        return np.asarray(rows.astype(np.float32) @ self.weights.T + self.bias, dtype=np.float64)
