"""Linear discriminant analysis with one covariance for all, from statistics that add up.

Knows nothing of texts, thresholds or files: rows in, linear scores out. What is pooled is a plain sum
over tasks, so a fit does not depend on the order in which tasks came, nor on which came before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from fleet.routing.features import Floats

__all__ = ["Discriminant", "Moments", "shrunk_covariance"]


@dataclass(frozen=True, slots=True)
class Moments:
    """All that a fit needs to know of one class's rows."""

    n: int
    mean: NDArray[np.float64]
    """``[D]``."""
    scatter: NDArray[np.float64]
    """``[D, D]``: sum of outer products of the rows less their mean."""
    fourth: float
    """Sum over rows of the fourth power of their distance to the mean."""

    @classmethod
    def of(cls, rows: Floats) -> Moments:
        """Of ``[n, D]`` with n at least 1."""
        wide = rows.astype(np.float64)
        mean = wide.mean(0)
        wide -= mean
        return cls(len(wide), mean, wide.T @ wide, float(((wide**2).sum(1) ** 2).sum()))


def shrunk_covariance(
    n: int, scatter: NDArray[np.float64], fourth: float
) -> tuple[NDArray[np.float64], float]:
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
    """

    names: tuple[str, ...]
    weights: NDArray[np.float32]
    """``[tasks, D]``."""
    bias: NDArray[np.float32]
    """``[tasks]``."""

    @classmethod
    def fit(cls, tasks: Mapping[str, Floats], background: Floats) -> Discriminant:
        """Over each task's rows ``[n, D]``, at least one a task, and background rows ``[m, D]``."""
        names = tuple(sorted(tasks))
        means, (covariance, _) = _pool([*(tasks[name] for name in names), background])
        # Far fewer rows than dimensions leave rounding below zero.
        covariance[np.diag_indices(len(covariance))] += 1e-9 * np.trace(covariance) / len(covariance) + 1e-12
        solved = cho_solve(cho_factor(covariance, lower=True, overwrite_a=True), means.T).T
        norms = (means * solved).sum(1)
        return cls(
            names,
            (2 * (solved[:-1] - solved[-1])).astype(np.float32),
            (norms[-1] - norms[:-1]).astype(np.float32),
        )

    def scores(self, rows: Floats) -> NDArray[np.float64]:
        """``[n, D]`` to ``[n, tasks]``."""
        return np.asarray(rows.astype(np.float32) @ self.weights.T + self.bias, dtype=np.float64)


def _pool(
    classes: Sequence[Floats],
) -> tuple[NDArray[np.float64], tuple[NDArray[np.float64], float]]:
    n, fourth = 0, 0.0
    means: list[NDArray[np.float64]] = []
    scatter = np.zeros((classes[0].shape[1],) * 2)
    for moments in _each(classes):
        n += moments.n
        fourth += moments.fourth
        scatter += moments.scatter
        means.append(moments.mean)
    return np.stack(means), shrunk_covariance(n, scatter, fourth)


def _each(classes: Iterable[Floats]) -> Iterable[Moments]:
    """One class at a time, so that a large fleet never holds all its scatters at once."""
    return (Moments.of(rows) for rows in classes)
