"""How held-out rows fare under a router's thresholds: the figures of a fit. Sets nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from fleet.routing.budget import Budget, Thresholds
from fleet.routing.calibrate import Scale, calibration_error
from fleet.routing.heldout import HeldOut, auroc
from fleet.routing.judged import Judged, foreign

__all__ = ["Fare", "fares", "figures"]


@dataclass(frozen=True, slots=True)
class Fare:
    """What held-out rows say about one task."""

    rows: int
    """Held-out rows of the task."""
    coverage: float | None
    """Share of them that is routed at all; None of none."""
    routed: int
    """Held-out rows of any task that are routed to it."""
    misroutes: int
    """Those of them that belong to another."""
    misroute: float
    low: float
    """95 % interval of the share (Clopper and Pearson)."""
    high: float
    budget: float
    least: float
    """Probability that is asked of it."""
    shown: bool | None
    """Whether held-out rows show that its own, stricter budget is kept; None where it has only the fleet's,
    which is of all tasks together."""

    def __post_init__(self) -> None:
        if not 0 <= self.misroutes <= self.routed or self.rows < 0:
            raise ValueError(f"{self.misroutes} misroutes of {self.routed} routed rows, {self.rows} its own")
        shares = (self.coverage or 0.0, self.misroute, self.low, self.high, self.budget, self.least)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"a share lies from 0 to 1: {shares}")


def fares(
    held: HeldOut, scale: Scale, names: Sequence[str], thresholds: Thresholds, budget: Budget
) -> dict[str, Fare]:
    """Of each task."""
    rows = Judged.of(scale.fused(held.views), scale, held.truth)
    routed = rows.routed(thresholds, names)
    found = {}
    for column, name in enumerate(names):
        mine = held.truth == column
        taken = routed & (rows.column == column)
        wrong, count = int((taken & ~rows.right).sum()), int(taken.sum())
        low, high = _interval(wrong, count)
        found[name] = Fare(
            int(mine.sum()),
            _mean(routed[mine]) if mine.any() else None,
            count,
            wrong,
            wrong / count if count else 0.0,
            low,
            high,
            budget.of(name),
            thresholds.least(name),
            thresholds.shows(name),
        )
    return found


def figures(
    held: HeldOut, scale: Scale, names: Sequence[str], thresholds: Thresholds, budget: Budget
) -> dict[str, float]:
    """Of the fleet; ``cv_`` is over held-out rows, on which the thresholds were set."""
    if not len(held.truth):
        return {}
    scores = scale.fused(held.views)
    rows = Judged.of(scores, scale, held.truth)
    routed = rows.routed(thresholds, names)
    fits = rows.fit >= thresholds.fit
    wrong = int((routed & ~rows.right).sum())
    low, high = _interval(wrong, int(routed.sum()))
    chances = scale.probabilities(scores)
    asked = fits & ~routed
    named = chances[np.arange(len(scores)), held.truth] >= thresholds.choice
    found = {
        "cv_rows": float(len(rows.fit)),
        "cv_accuracy": _mean(rows.right),
        "cv_accuracy_inputs": _mean(rows.right[held.inputs]),
        "cv_accuracy_instructions": _mean(rows.right[~held.inputs]),
        "cv_coverage": _mean(routed),
        "cv_misroute": wrong / max(int(routed.sum()), 1),
        "cv_misroute_low": low,
        "cv_misroute_high": high,
        "cv_abstained": _mean(~fits),
        "cv_clarified": _mean(asked),
        "cv_clarified_named": _mean(named[asked]),
        "cv_calibration_error": calibration_error(rows.top, rows.right),
        "budget_kept": float(thresholds.kept and not thresholds.unshown),
        "out_of_scope": budget.out_of_scope,
        "temperature": scale.temperature,
        "weight_means": scale.means,
        "weight_states": scale.states,
        "weight_letters": scale.letters,
        "fit_threshold": thresholds.fit,
        "probability_threshold": thresholds.probability,
    }
    for kind, strange in foreign(held, scale).items():
        found[f"{kind}_auroc"] = auroc(rows.fit, strange.fit)
        found[f"{kind}_abstained"] = _mean(strange.fit < thresholds.fit)
        found[f"{kind}_routed"] = _mean(strange.routed(thresholds, names))
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _interval(hits: int, of: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 %; ``scipy.stats.binomtest`` gives the same and takes milliseconds a task."""
    low = betaincinv(hits, of - hits + 1, 0.025) if hits else 0.0
    high = betaincinv(hits + 1, of - hits, 0.975) if hits < of else 1.0
    return float(low), float(high)


def _mean(mask: NDArray[np.bool_]) -> float:
    return float(mask.mean()) if len(mask) else float("nan")
