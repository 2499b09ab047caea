"""Whose jobs a task would take: the same jobs under a router without it and with it. Knows no files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fleet.routing.decision import Decision
from fleet.routing.head import Router
from fleet.routing.reading import Readings

__all__ = ["Own", "Shift", "Taken", "WhatIf", "what_if"]

SHOWN = 80
"""Characters of a job that is shown."""
EXAMPLES = 10
"""Jobs taken that are shown, the surest first; of each task in turn."""


@dataclass(frozen=True, slots=True)
class Shift:
    """What becomes of one present task's jobs."""

    task: str | None
    """None: jobs that no task has now."""
    jobs: int | None
    """Jobs that are known to be its own; None where that is not known."""
    before: int
    """Jobs that are routed to it without the new task,"""
    after: int
    """and with it."""
    taken: int
    """Of those before: now the new task's,"""
    asked: int
    """now asked back,"""
    abstained: int
    """now nobody's,"""
    moved: int
    """now another present task's."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that the new task would take."""

    text: str
    source: str
    before: str | None
    """Who has it now; None for nobody, or one that is asked back."""
    probability: float
    wrong: bool | None
    """Whether it is known to be another task's own."""


@dataclass(frozen=True, slots=True)
class Own:
    """How the new task's own rows fare."""

    jobs: int
    without: int
    """Routed to some other task while the router does not know this one."""
    routed: int
    """Routed to the task once the router knows it,"""
    asked: int
    """asked back,"""
    abstained: int
    """given to nobody,"""
    lost: int
    """routed to another task."""


@dataclass(frozen=True, slots=True)
class WhatIf:
    task: str
    shifts: tuple[Shift, ...]
    own: Own
    taken: tuple[Taken, ...]
    """Examples."""


@dataclass(frozen=True, slots=True)
class _Job:
    text: str
    source: str
    owner: str | None
    before: Decision
    after: Decision


def what_if(
    without: Router,
    extended: Router,
    task: str,
    jobs: Readings,
    sources: Sequence[str],
    owners: Sequence[str | None] | None,
    own: Readings,
    known: Collection[str],
) -> WhatIf:
    """Decide jobs and the task's ``own`` rows by a router without the task, and by one ``extended`` by it.

    ``owners`` are the tasks that the jobs belong to, where that is known. Besides the task only ``known``
    ones are routed to.
    """
    others = [name for name in known if name != task and name in without.tasks]
    before = without.decide(jobs, known=others)
    after = extended.decide(jobs, known=[*others, task])
    seen = [
        _Job(*each)
        for each in zip(jobs.texts, sources, owners or [None] * len(jobs.texts), before, after, strict=True)
    ]
    shifts = [_shift(name, task, seen, owners is not None) for name in (*sorted(others), None)]
    first, second = without.decide(own, known=others), extended.decide(own, known=[*others, task])
    fare = Own(
        len(own),
        sum(made.kind == "route" for made in first),
        sum(made.task == task for made in second),
        sum(made.kind == "clarify" for made in second),
        sum(made.kind == "abstain" for made in second),
        sum(made.task not in (task, None) for made in second),
    )
    return WhatIf(task, tuple(shifts), fare, _examples(seen, task))


def _shift(name: str | None, task: str, jobs: Sequence[_Job], owned: bool) -> Shift:
    mine = [job for job in jobs if job.before.task == name]
    return Shift(
        name,
        sum(job.owner == name for job in jobs) if owned and name is not None else None,
        len(mine),
        sum(job.after.task == name for job in jobs),
        sum(job.after.task == task for job in mine),
        0 if name is None else sum(job.after.kind == "clarify" for job in mine),
        0 if name is None else sum(job.after.kind == "abstain" for job in mine),
        sum(job.after.task not in (task, name, None) for job in mine),
    )


def _examples(jobs: Sequence[_Job], task: str) -> tuple[Taken, ...]:
    """In turns, so that a task which loses much hides no other."""
    queues: dict[str | None, list[Taken]] = {}
    taken = [job for job in jobs if job.after.task == task]
    for job in sorted(taken, key=lambda job: (-job.after.confidence, job.source)):
        text = " ".join(job.text.split())
        shown = text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
        wrong = None if job.owner is None else job.owner != task
        each = Taken(shown, job.source, job.before.task, job.after.confidence, wrong)
        queues.setdefault(job.before.task, []).append(each)
    found: list[Taken] = []
    for turn in range(EXAMPLES):
        found += [queue[turn] for _, queue in sorted(queues.items(), key=_last_none) if turn < len(queue)]
    return tuple(found[:EXAMPLES])


def _last_none(item: tuple[str | None, list[Taken]]) -> tuple[bool, str]:
    return item[0] is None, item[0] or ""
