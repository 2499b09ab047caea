"""A job as it comes in, and what comes back: decision, answers and receipts. Knows nothing of who answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fleet.demand import Demand
from fleet.engine.specs import Weights
from fleet.errors import JobError
from fleet.routing.decision import Decision

FaultCode = Literal[
    "bad-job",
    "other-form",
    "unknown-task",
    "forbidden",
    "no-router",
    "quarantined",
    "overloaded",
    "deadline",
    "failed",
]
"""Why there is no answer: the job's own fault; a form asked for that the expert's answers do not have; no
champion for its task; a task that it may not be given to; nobody to route it; an expert that must not answer;
more work than may wait; its time is over; a failure of ours, worth another try."""
ITS_OWN: frozenset[FaultCode | None] = frozenset({"bad-job", "other-form", "unknown-task"})
"""Faults of the job itself: it fails again until it is mended."""


@dataclass(frozen=True, slots=True)
class Job:
    """One incoming piece of work: a text or named fields, perhaps for one or several named tasks."""

    id: str
    text: str | None = None
    fields: Mapping[str, str] | None = None
    task: str | tuple[str, ...] | None = None
    allowed: frozenset[str] | None = None
    """The only tasks that it may be given to; None is all. The router decides as always, and what it
    decides for another task is not done."""
    demand: Demand | None = None
    """What is asked of the answer, beside the task."""
    all: bool = False
    """Whether, if the router finds that it needs several tasks, all of them answer; else it is only told."""
    patient: bool = False
    """Whether nobody waits for it, as for one of a file of many: it lets others by."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it names; the router is asked when there is none."""
        if self.task is None:
            return ()
        return (self.task,) if isinstance(self.task, str) else self.task

    @property
    def forbidden(self) -> tuple[str, ...]:
        """The tasks that it names and may not be given to."""
        return () if self.allowed is None else tuple(task for task in self.tasks if task not in self.allowed)

    def named_fields(self) -> Mapping[str, str]:
        """The fields; a bare text is the field ``text``. Raises ``JobError`` when there is neither."""
        if self.fields is not None:
            return self.fields
        if self.text is None:
            raise JobError("the job has neither a text nor fields")
        return {"text": self.text}


@dataclass(frozen=True, slots=True)
class Receipt:
    """Which exact weights answered, and what it took."""

    task: str
    version: int
    digest: str
    base_fingerprint: str
    router_version: int | None
    decision: str
    confidence: float
    input_tokens: int
    output_tokens: int
    weights: Weights
    """What the base's weights were multiplied as."""
    milliseconds: Mapping[str, float]
    """By stage, waiting for the rest of its batch included."""


@dataclass(frozen=True, slots=True)
class Answer:
    task: str
    value: Any
    text: str
    confidence: float
    truncated: bool
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a job: a decision, and answers or the reason why there is none."""

    id: str
    decision: Decision | None
    answers: tuple[Answer, ...] = ()
    error: str | None = None
    """Why the expert that the job was routed to has not answered, or, without such a one, nobody has."""
    bad_job: bool = False
    """Whether the error is the job's own fault, so that it fails again until the job is mended."""
    code: FaultCode | None = None
    """What kind of error it is."""
    retry_after: int | None = None
    """Seconds after which an overloaded host may have room."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Every expert that was asked and has not answered, with its reason."""
    failed_codes: Mapping[str, FaultCode] = field(default_factory=dict)
    """And what kind of error each of them is."""
