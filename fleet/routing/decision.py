"""The router's word on a job, and how figures become it. Knows nothing of features and files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fleet.routing.calibrate import Thresholds

__all__ = ["Decision", "judge"]

Kind = Literal["route", "clarify", "abstain"]

HESITATION = 0.9
"""A question names the likeliest tasks until they hold this much of the probability,"""
CHOICES = 3
"""but no more than so many."""


@dataclass(frozen=True, slots=True)
class Decision:
    """``route`` to one task, ``clarify`` between a few, or ``abstain``; with the figures behind it."""

    kind: Kind
    task: str | None
    """The task, when routed."""
    tasks: tuple[str, ...]
    """The task, or those it hesitates between, likeliest first; empty when it abstains."""
    confidence: float
    """Calibrated probability of the likeliest task, given that one of the fleet's fits."""
    fit: float | None
    """Relative Mahalanobis distance to the nearest task; None if nothing was measured."""
    reason: str
    scores: tuple[tuple[str, float], ...] = ()
    """The likeliest tasks with their probabilities."""

    def __post_init__(self) -> None:
        if (self.kind == "route") != (self.task is not None):
            raise ValueError("a decision names its task exactly when it routes")

    @classmethod
    def forced(cls, *tasks: str) -> Decision:
        """The job itself names its task, or several."""
        named = "this task" if len(tasks) == 1 else "these tasks"
        scores = tuple((task, 1.0) for task in tasks)
        return cls("route", tasks[0], tasks, 1.0, None, f"the job names {named}", scores)

    @classmethod
    def none(cls, reason: str) -> Decision:
        """Nothing to measure."""
        return cls("abstain", None, (), 0.0, None, f"no expert fits: {reason}")

    def within(self, allowed: Collection[str]) -> Decision | None:
        """What someone may see of it who may ask these tasks only; None when it is for others alone."""
        tasks = tuple(task for task in self.tasks if task in allowed)
        if self.tasks and not tasks:
            return None
        reason = self.reason
        if self.kind == "abstain" and self.scores and self.scores[0][0] not in allowed:
            reason = "no expert fits"  # without the nearest one's name
        elif tasks != self.tasks:
            reason = "several experts are likely, none likely enough"
        scores = tuple(each for each in self.scores if each[0] in allowed)
        return replace(self, tasks=tasks, reason=reason, scores=scores)


def judge(
    ranked: Sequence[tuple[str, float]], nearest: str, fit: float, thresholds: Thresholds, top: int
) -> Decision:
    """Tasks with probabilities, likeliest first, and the fit of the nearest, under thresholds."""
    task, confidence = ranked[0]
    scores = tuple(ranked[:top])
    if fit < thresholds.fit:
        reason = (
            f"no expert fits: fit {fit:.1f} to {nearest}, the nearest task, is below {thresholds.fit:.1f}"
        )
        return Decision("abstain", None, (), confidence, fit, reason, scores)
    if len(ranked) > 1 and confidence < thresholds.probability:
        held = 0.0
        choices: list[str] = []
        for name, probability in ranked[:CHOICES]:
            if len(choices) >= 2 and held >= HESITATION:
                break
            choices.append(name)
            held += probability
        each = " or ".join(f"{name} ({probability:.2f})" for name, probability in ranked[: len(choices)])
        reason = f"{each}: none reaches a probability of {thresholds.probability:.2f}"
        return Decision("clarify", None, tuple(choices), confidence, fit, reason, scores)
    reason = (
        f"probability {confidence:.2f} (at least {thresholds.probability:.2f} is asked for), "
        f"fit {fit:.1f} (at least {thresholds.fit:.1f})"
    )
    return Decision("route", task, (task,), confidence, fit, reason, scores)
