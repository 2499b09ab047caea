"""A job on its way through a host's stages, until it is a result. Knows nothing of models or threads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from fleet.engine.trunk import TrunkState
from fleet.job import ITS_OWN, Answer, FaultCode, Job, Result
from fleet.registry.version import VersionInfo
from fleet.routing.decision import Decision


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one expert has no answer to a job."""

    reason: str
    code: FaultCode
    retry_after: int | None = None


@dataclass(slots=True, eq=False)
class Ticket:
    """What is known of a job so far; belongs to one thread at a time."""

    job: Job
    top: int = 1
    """How many of the likeliest experts answer."""
    fields: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    ids: list[int] = field(default_factory=list)
    state: TrunkState | None = None
    tidy: str = ""
    """The text as the router reads it,"""
    routed: TrunkState | None = None
    """and its state: the same one, where the text is tidy already."""
    readings: dict[str, TrunkState] = field(default_factory=dict)
    """Of the same fields in another order, by how they are rendered then."""
    decision: Decision | None = None
    router_version: int | None = None
    """Of the router that decided; None if none was asked."""
    versions: dict[str, VersionInfo] = field(default_factory=dict)
    """Who is asked, by task: resolved once, whatever is promoted later."""
    open: set[str] = field(default_factory=set)
    """Tasks whose expert has neither answered nor failed yet."""
    answers: dict[str, Answer] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    refused: Failure | None = None
    """Why no expert was asked at all."""
    milliseconds: dict[str, float] = field(default_factory=dict)
    """By stage, waiting for company included."""
    since: float = field(default_factory=time.perf_counter)

    @property
    def ended(self) -> bool:
        return not self.open

    def lap(self, stage: str) -> None:
        """The time since the last lap was ``stage``'s."""
        now = time.perf_counter()
        self.milliseconds[stage] = round(self.milliseconds.get(stage, 0.0) + (now - self.since) * 1000, 2)
        self.since = now

    def refuse(self, reason: str, code: FaultCode) -> None:
        """No expert is asked, or asked any longer."""
        self.refused = Failure(reason, code)
        self.open.clear()

    def fail(self, task: str, reason: str, code: FaultCode, retry_after: int | None = None) -> None:
        self.failed[task] = Failure(reason, code, retry_after)
        self.open.discard(task)

    def answer(self, answer: Answer) -> None:
        self.answers[answer.task] = answer
        self.open.discard(answer.task)

    def result(self) -> Result:
        """What came of the job: the failure that is shown is that of the expert which it was routed to."""
        blamed = [] if self.refused is None else [self.refused]
        chosen = None if self.decision is None else self.decision.task
        if not blamed and chosen in self.failed:
            blamed = [self.failed[chosen]]
        compound = self.decision is not None and self.decision.kind == "compound"
        if not blamed and chosen is None and (compound or not self.answers):
            blamed = list(self.failed.values())
        code = _gravest([failure.code for failure in blamed])
        return Result(
            id=self.job.id,
            decision=self.decision,
            answers=tuple(self.answers[task] for task in self.versions if task in self.answers),
            error="; ".join(failure.reason for failure in blamed) or None,
            bad_job=code in ITS_OWN,
            code=code,
            retry_after=max((f.retry_after for f in blamed if f.retry_after is not None), default=None),
            failed={task: failure.reason for task, failure in self.failed.items()},
            failed_codes={task: failure.code for task, failure in self.failed.items()},
        )


def _gravest(codes: list[FaultCode]) -> FaultCode | None:
    """The job is to blame only if no expert is."""
    others = [code for code in codes if code not in ITS_OWN]
    return next(iter(others or codes), None)
