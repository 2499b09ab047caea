"""The router's word on a job, and how figures become it. Knows nothing of features and files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fleet.routing.budget import Thresholds

__all__ = ["CHOICES", "Cause", "Decision", "judge"]

Kind = Literal["route", "clarify", "compound", "abstain"]
Cause = Literal["no_fit", "no_text", "too_short", "too_long", "language", "no_expert"]
"""Why it abstains: nothing fits, there is nothing to measure, the job is shorter or longer than anything
that the tasks hold, it is in a language of none of them, or no expert can answer for the task it is like."""

PLAINLY: Mapping[Cause, str] = {
    "no_fit": "",
    "no_text": ": the job holds no text that could be measured",
    "too_short": ": the job is too short to tell",
    "too_long": ": the job is longer than any that tasks know",
    "language": ": the job is in a language that no task knows",
    "no_expert": "",
}
"""Without what the likeliest task is called or the tasks' languages are, which not everybody may know."""

CHOICES = 5
"""Tasks that a question names at most; two at least, where two can answer."""


@dataclass(frozen=True, slots=True)
class Decision:
    """``route`` to one task, ``clarify`` between a few, ``compound`` for a job that needs several, or
    ``abstain``; with the figures behind it."""

    kind: Kind
    task: str | None
    """The task, when routed."""
    tasks: tuple[str, ...]
    """The task; those it hesitates between, likeliest first; all that a compound job needs, in the order in
    which it asks for them; empty when it abstains."""
    confidence: float
    """Calibrated probability of the likeliest task, given that one of the fleet's fits; of a compound job
    that of the task which it asks for least surely."""
    fit: float | None
    """How much more the job is like the nearest task than like text in general: relative Mahalanobis
    distance and the letters' log-odds; None if nothing was measured."""
    reason: str
    scores: tuple[tuple[str, float], ...] = ()
    """The likeliest of the tasks that can answer, with their probabilities among all tasks."""
    cause: Cause | None = None
    """Why it abstains, for programs."""

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
    def none(cls, reason: str, cause: Cause) -> Decision:
        """Nothing to measure."""
        return cls("abstain", None, (), 0.0, None, f"no expert fits: {reason}", cause=cause)

    def within(self, allowed: Collection[str]) -> Decision | None:
        """What someone may see of it who may ask these tasks only; None when it is for others alone, or is a
        compound job that needs one of them: it is not done by halves."""
        tasks = tuple(task for task in self.tasks if task in allowed)
        if (self.tasks and not tasks) or (self.kind == "compound" and tasks != self.tasks):
            return None
        reason = self.reason
        if self.cause is not None:
            reason = f"no expert fits{PLAINLY[self.cause]}"
        elif tasks != self.tasks:
            reason = "several experts are likely, none likely enough"
        scores = tuple(each for each in self.scores if each[0] in allowed)
        return replace(self, tasks=tasks, reason=reason, scores=scores)


def judge(
    first: tuple[str, float],
    answers: bool,
    ranked: Sequence[tuple[str, float]],
    fit: float,
    thresholds: Thresholds,
    top: int,
    why: Callable[[], tuple[Cause, str]],
) -> Decision:
    """The likeliest of all tasks with its probability and fit, under thresholds.

    ``ranked`` are the likeliest ``CHOICES`` or more of those that can answer; where the first cannot, nobody
    is asked. ``why`` is asked for the cause of an abstention and its words.
    """
    task, confidence = first
    scores = tuple(ranked[:top])
    if fit < thresholds.fit:
        cause, words = why()
        reason = (
            f"no expert fits: {words}fit {fit:.1f} to {task}, the nearest task, is below {thresholds.fit:.1f}"
        )
        return Decision("abstain", None, (), confidence, fit, reason, scores, cause)
    least = thresholds.least(task)
    if not answers:
        reason = f"no expert fits: the job is most like {task} ({confidence:.2f}), which none can answer now"
        return Decision("abstain", None, (), confidence, fit, reason, scores, "no_expert")
    if confidence < least:
        likely = sum(probability >= thresholds.choice for _, probability in ranked)
        choices = ranked[: min(max(likely, 2), CHOICES)]
        each = " or ".join(f"{name} ({probability:.2f})" for name, probability in choices)
        reason = f"{each}: {task} would need a probability of {least:.3g}"
        return Decision("clarify", None, tuple(name for name, _ in choices), confidence, fit, reason, scores)
    reason = (
        f"probability {confidence:.2f} (at least {least:.3g} is asked for), "
        f"fit {fit:.1f} (at least {thresholds.fit:.1f})"
    )
    return Decision("route", task, (task,), confidence, fit, reason, scores)
