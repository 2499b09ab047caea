"""From three views' scores to one calibrated probability. Knows no thresholds and no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from fleet.routing.discriminant import Discriminant
from fleet.routing.heldout import NEVER, HeldOut, Views
from fleet.routing.statistics import Model

__all__ = ["Scale", "calibrate", "calibration_error"]

Doubles = NDArray[np.float64]

PULL = 1e-4
"""Towards the usual weights, on the scale of nats a row."""
COLDEST = 1e-6
"""Temperature below which a probability is no number any more."""
BINS = 15
"""Of the expected calibration error."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How three views become one score, and scores probabilities.

    The defaults are for a fleet that cannot say better: near what the starter fleet's held-out rows choose.
    """

    temperature: float = 5.0
    """What log-likelihood ratios are divided by to be calibrated."""
    means: float = 0.8
    """Weight of the distance over means,"""
    states: float = 0.2
    """and of that over means and spreads; together 1, so that scores stay distances."""
    letters: float = 2.0
    """Weight of the letters' log-odds beside them."""

    def __post_init__(self) -> None:
        if not self.temperature >= COLDEST or not min(self.means, self.states, self.letters) >= 0:
            raise ValueError(f"a scale needs a temperature of {COLDEST} and no weight below 0: {self}")

    def fused(self, views: Views) -> Doubles:
        """``[n, tasks]``: how much more each row is like each task than like text in general."""
        return np.asarray(
            self.means * views.means + self.states * views.states + self.letters * views.letters
        )

    def merged(self, model: Model, means: NDArray[np.bool_]) -> Discriminant:
        """Both distances as one linear map; ``means`` tells their columns."""
        weights = self.states * model.states.weights
        weights[:, means] += self.means * model.means.weights
        bias = self.states * model.states.bias + self.means * model.means.bias
        return Discriminant(weights.astype(np.float32), bias.astype(np.float32))

    def probabilities(self, scores: Doubles) -> Doubles:
        """Fused scores ``[n, tasks]`` to calibrated probabilities of the same shape."""
        return np.asarray(softmax(scores / (2 * self.temperature), axis=1))


def calibrate(held: HeldOut) -> Scale:
    """The weights of the views under which held-out rows are likeliest: their scale is the temperature.

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599) with a factor for each view: a logistic
    regression with three positive coefficients for all tasks together.
    """
    rows = np.arange(len(held.truth))
    known = held.views.means[rows, held.truth] > NEVER / 2 if len(rows) else np.zeros(0, bool)
    start = Scale()
    if held.views.tasks == 1 or not known.any():
        return start
    truth, rows = held.truth[known], np.arange(int(known.sum()))
    views = [each[known] for each in (held.views.means, held.views.states, held.views.letters)]
    usual = np.log(np.array([start.means, start.states, start.letters]) / (2 * start.temperature))

    def loss(logs: Doubles) -> tuple[float, Doubles]:
        factors = np.exp(logs)
        likely = log_softmax(sum(f * view for f, view in zip(factors, views, strict=True)), axis=1)
        gap = np.exp(likely)
        gap[rows, truth] -= 1
        slope = np.array([float((gap * view).sum()) for view in views]) * factors / len(rows)
        away = logs - usual
        # A little pull, for where any weights separate the rows.
        value = -float(likely[rows, truth].mean()) + PULL * float(away @ away)
        return value, slope + 2 * PULL * away

    found = minimize(loss, usual, jac=True, method="L-BFGS-B", bounds=[(-12.0, 6.0)] * len(usual))
    means, states, letters = (float(factor) for factor in np.exp(found.x))
    both = means + states
    return Scale(1 / (2 * both), means / both, states / both, letters / both)


def calibration_error(chances: Doubles, right: NDArray[np.bool_]) -> float:
    """Expected calibration error of ``[n]`` probabilities that came true or not, in bins of equal mass
    (Naeini et al. 2015; equal mass as in Nixon et al. 2019)."""
    if not len(chances):
        return float("nan")
    order = np.argsort(chances, kind="stable")
    parts = np.array_split(order, min(BINS, len(order)))
    gaps = [abs(float(chances[part].mean() - right[part].mean())) * len(part) for part in parts]
    return sum(gaps) / len(chances)
