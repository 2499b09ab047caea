"""Thresholds and calibration from rows that the judging model had not seen. Knows nothing of files.

Held-out training inputs stand for real jobs, and set the thresholds. Held-out groups of the background,
and every task's inputs under the scores of the other tasks (leave one task out; the covariance still
holds its rows), stand for jobs that nobody takes: figures are reported for them, nothing is set on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from fleet.routing.discriminant import Discriminant
from fleet.routing.evidence import FOLDS, INPUT, Evidence
from fleet.routing.features import Floats

__all__ = ["HeldOut", "Thresholds", "auroc", "calibrate", "cross_validate"]

REFUSED = 0.05
"""Share of real jobs that the fit threshold may cost."""
ROUTED_ACCURACY = 0.95
"""What the probability threshold aims at among routed jobs."""
CLARIFIED = 0.15
"""Share of fitting jobs that it may cost at most to get there."""
EVEN = 0.5
"""A task below this probability is never routed to: all others together are as likely."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a decision is measured against."""

    fit: float
    """Relative Mahalanobis distance that the nearest task must reach."""
    probability: float
    """Calibrated probability that it must reach."""
    temperature: float
    """What log-likelihood ratios are divided by to be calibrated."""
    origin: str
    """Where the figures come from, in words."""

    def probabilities(self, scores: Doubles) -> Doubles:
        """Scores ``[n, tasks]`` to calibrated probabilities of the same shape."""
        return np.asarray(softmax(scores / (2 * self.temperature), axis=1))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Scores of rows by models that had not seen them."""

    scores: Doubles
    """``[m, tasks]``."""
    truth: NDArray[np.int64]
    """``[m]``: column of each row's task."""
    background: Doubles
    """``[b, tasks]``."""


def cross_validate(tasks: Mapping[str, Evidence], background: Floats, folds: NDArray[np.int64]) -> HeldOut:
    """Judge each fold's inputs, and each fold's background groups, by a model of all other folds."""
    names = sorted(tasks)
    scores, truth, beyond = [np.empty((0, len(names)))], [np.empty(0, np.int64)], [np.empty((0, len(names)))]
    for fold in range(FOLDS):
        seen = {name: tasks[name].rows[np.array(tasks[name].folds) != fold] for name in names}
        seen = {name: rows for name, rows in seen.items() if len(rows)}
        if not seen or not (folds != fold).any():
            continue
        model = Discriminant.fit(seen, background[folds != fold])
        columns = [names.index(name) for name in model.names]

        def judge(rows: Floats, model: Discriminant = model, columns: list[int] = columns) -> Doubles:
            judged = np.full((len(rows), len(names)), -np.inf)
            judged[:, columns] = model.scores(rows)
            return judged

        beyond.append(judge(background[folds == fold]))
        for name in model.names:
            task = tasks[name]
            held = (np.array(task.folds) == fold) & (np.array(task.kinds) == INPUT)
            scores.append(judge(task.rows[held]))
            truth.append(np.full(int(held.sum()), names.index(name), np.int64))
    return HeldOut(np.concatenate(scores), np.concatenate(truth), np.concatenate(beyond))


def calibrate(held: HeldOut) -> tuple[Thresholds, dict[str, float]]:
    """Thresholds, and how held-out rows fare under them."""
    count = held.scores.shape[1]
    if not len(held.truth):
        origin = "no task has two inputs to hold one out, so: more like a task than like text in general"
        return Thresholds(0.0, EVEN, 1.0, origin), {}
    temperature = _temperature(held)
    fits = held.scores.max(1)
    fit = float(np.quantile(fits, REFUSED))
    top = softmax(held.scores / (2 * temperature), axis=1).max(1)
    right = held.scores.argmax(1) == held.truth
    taken = fits >= fit
    probability = _probability(top[taken], right[taken])
    origin = (
        f"{len(held.truth)} held-out training inputs of {count} {'task' if count == 1 else 'tasks'} "
        f"in {FOLDS} folds: fit may refuse {REFUSED:.0%} of them, probability aims at "
        f"{ROUTED_ACCURACY:.0%} right among those routed while at most {CLARIFIED:.0%} are asked back"
    )
    routed = taken & (top >= probability)
    figures = {
        "cv_rows": float(len(held.truth)),
        "cv_accuracy": float(right.mean()),
        "cv_accuracy_routed": float(right[routed].mean()) if routed.any() else 0.0,
        "cv_refused": float((~taken).mean()),
        "cv_clarified": float((taken & (top < probability)).mean()),
        "background_abstained": float((held.background.max(1) < fit).mean()),
        "background_auroc": auroc(fits, held.background.max(1)),
        "temperature": temperature,
        "fit_threshold": fit,
        "probability_threshold": probability,
    }
    if count > 1:
        others = held.scores.copy()
        others[np.arange(len(others)), held.truth] = -np.inf
        figures["loto_auroc"] = auroc(fits, others.max(1))
        figures["loto_abstained"] = float((others.max(1) < fit).mean())
    return Thresholds(fit, probability, temperature, origin), figures


def auroc(positive: Doubles, negative: Doubles) -> float:
    """Probability that a positive outranks a negative, ties counting half."""
    if not len(positive) or not len(negative):
        return float("nan")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / (2 * len(negative)))


def _temperature(held: HeldOut) -> float:
    """The divisor under which held-out rows are likeliest (Guo et al. 2017, arXiv:1706.04599)."""
    if held.scores.shape[1] == 1:
        return 1.0

    def loss(log_t: float) -> float:
        likely = log_softmax(held.scores / (2 * np.exp(log_t)), axis=1)
        return -float(likely[np.arange(len(held.truth)), held.truth].mean())

    found = minimize_scalar(loss, bounds=(-3.0, 5.0), method="bounded")
    return float(np.exp(found.x))


def _probability(top: Doubles, right: NDArray[np.bool_]) -> float:
    """The least threshold that reaches the accuracy, or what the budget of questions allows."""
    order = np.argsort(-top, kind="stable")
    accuracy = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    reached = np.flatnonzero(accuracy >= ROUTED_ACCURACY)
    wanted = float(top[order[reached[-1]]]) if len(reached) else 1.0
    return max(EVEN, min(wanted, float(np.quantile(top, CLARIFIED))))
