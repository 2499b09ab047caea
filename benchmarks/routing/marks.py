"""Figures of a router's answers on test rows. Knows no router but ours, and sets nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.routing.budget import Budget
from fleet.routing.head import Router
from fleet.routing.heldout import auroc
from fleet.routing.reading import Readings

Doubles = NDArray[np.float64]

REFUSED = 0.05
"""Share of validation rows that a threshold refuses where one is asked for."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What one contender says of in-scope rows and of rows that fit no task: task, and how well it fits."""

    names: NDArray[Any]
    """``[n]``: the likeliest task of each test row;"""
    fit: Doubles
    """``[n]``: its fit."""
    strange: Doubles
    """``[m]``: the fit of the likeliest task of rows that fit none."""

    @classmethod
    def of(cls, router: Router, test: Readings, beyond: Readings) -> Marks:
        scores = router.scores(test)
        return cls(
            np.array(router.tasks)[scores.argmax(1)],
            scores.max(1),
            router.scores(beyond).max(1) if len(beyond) else np.empty(0),
        )

    def right(self, truth: Sequence[str]) -> float:
        return float(np.mean(self.names == np.array(truth)))

    @property
    def auroc(self) -> float | None:
        return auroc(self.fit, self.strange) if len(self.strange) else None


def below(fit: Doubles, least: float) -> float:
    """Share that a threshold refuses."""
    return float(np.mean(fit < least))


def fared(router: Router, read: Readings, truth: Sequence[str] | None) -> dict[str, Any]:
    """What the router's decisions do with rows of these tasks; of none, without ``truth``."""
    decisions = router.decide(read)
    routed = np.array([d.kind == "route" for d in decisions])
    asked = [d.tasks for d in decisions if d.kind == "clarify"]
    found: dict[str, Any] = {
        "rows": len(decisions),
        "coverage": float(routed.mean()),
        "misroutes": None,
        "asked back": len(asked) / len(decisions),
        "of these with the task": None,
        "abstained": float(np.mean([d.kind == "abstain" for d in decisions])),
    }
    if truth is not None:
        wrong = sum(d.kind == "route" and d.task != t for d, t in zip(decisions, truth, strict=True))
        named = [t in d.tasks for d, t in zip(decisions, truth, strict=True) if d.kind == "clarify"]
        found["misroutes"] = wrong / max(int(routed.sum()), 1)
        found["of these with the task"] = float(np.mean(named)) if named else None
    return found


def mixed(inside: dict[str, Any], outside: dict[str, Any], budget: Budget) -> float:
    """Share of misroutes among routed jobs in the traffic that the budget reckons with."""
    mine = (1 - budget.out_of_scope) * inside["coverage"]
    theirs = budget.out_of_scope * outside["coverage"]
    return float((mine * inside["misroutes"] + theirs) / (mine + theirs)) if mine + theirs else 0.0


def flips(router: Router) -> list[str]:
    """What small changes do to held-out training rows under these thresholds, a line for each way."""
    ways = sorted(name.removeprefix("flip_") for name in router.metrics if name.startswith("flip_"))
    ways.sort(key="rate".__eq__)
    return [
        f"{'all changes' if way == 'rate' else way.replace('_', ' ')}: another word for "
        f"{router.metrics[f'flip_{way}']:.1%}, astray {router.metrics[f'astray_{way}']:.1%}"
        for way in ways
    ]
