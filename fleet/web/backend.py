"""What the web interface needs of whoever answers. Knows no transport and no cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fleet.following import State
from fleet.job import Job, Result
from fleet.live import LiveState
from fleet.profile import Profile
from fleet.registry.version import VersionInfo
from fleet.roster import Roster


@dataclass(frozen=True, slots=True)
class ExpertState:
    """One task's expert, over all replicas."""

    task: str
    version: int | None
    """The champion that answers; the oldest one where replicas differ for a moment."""
    digest: str
    wanted: int
    """The version that the registry names as champion."""
    created: float
    """When that was registered, in Unix seconds."""
    state: State
    ready_on: int
    """Replicas on which it is in memory and checked."""
    reason: str = ""
    """Why the wanted version must not answer."""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """How the service is at one moment."""

    replicas: int
    """That can take jobs."""
    experts: tuple[ExpertState, ...]
    router_version: int | None
    router_fault: str
    waiting: int
    """Jobs that have come and have no result yet."""
    queued: Mapping[str, int] = field(default_factory=dict)
    """Of them, by task."""
    registry_fault: str = ""
    """Why the registry cannot be asked at present; what was known last goes on."""
    started: float = 0.0
    """Unix seconds."""
    hidden: bool = False
    """Whether there are experts that who asks may not see."""

    @property
    def ready(self) -> bool:
        return self.replicas > 0 and (bool(self.experts) or self.hidden)

    def within(self, tasks: Collection[str]) -> ServiceState:
        """What someone may see of it who may ask these tasks only."""
        seen = tuple(expert for expert in self.experts if expert.task in tasks)
        queued = {task: jobs for task, jobs in self.queued.items() if task in tasks}
        return replace(self, experts=seen, queued=queued, hidden=len(seen) < len(self.experts))


def service_state(
    roster: Roster, states: Sequence[LiveState], *, registry_fault: str = "", started: float = 0.0
) -> ServiceState:
    """What replicas that follow a roster are together."""
    routers = [state.router_version for state in states if state.router_version is not None]
    queued: Counter[str] = Counter()
    for state in states:
        queued.update(state.queued)
    return ServiceState(
        replicas=len(states),
        experts=tuple(_expert(info, states) for info in roster.champions.values()),
        router_version=min(routers, default=None),
        router_fault=next((state.router_fault for state in states if state.router_fault), ""),
        waiting=sum(state.waiting for state in states),
        queued=dict(queued),
        registry_fault=registry_fault,
        started=started,
    )


def _expert(info: VersionInfo, states: Sequence[LiveState]) -> ExpertState:
    standings = [s for state in states for s in state.standings if s.task == info.task]
    answering = [s for s in standings if s.version is not None]
    oldest = min(answering, key=lambda s: s.version or 0, default=None)
    ready = sum(s.state == "ready" for s in standings)
    worst: State = "waiting" if not standings else max((s.state for s in standings), key=_WORSE.index)
    return ExpertState(
        task=info.task,
        version=None if oldest is None else oldest.version,
        digest="" if oldest is None else oldest.digest,
        wanted=info.version,
        created=info.created.timestamp(),
        state=worst,
        ready_on=ready,
        reason=next((s.reason for s in standings if s.reason), ""),
    )


_WORSE: Sequence[State] = ("ready", "waiting", "quarantined")


class Backend(Protocol):
    """Whoever answers: a live host in this process, or replicas on a cluster."""

    async def answer(
        self, jobs: Sequence[Job], *, top: int = 1, seconds: float | None = None
    ) -> list[Result]:
        """A result for each job, in their order; never raises for what is wrong with one of them."""
        ...

    def stream(self, job: Job, *, seconds: float | None = None) -> AsyncIterator[str | Result]:
        """Pieces of the text, then the result."""
        ...

    async def profile(self, task: str) -> Profile | None:
        """What a task's champion is for; None while nobody can tell, as ``state`` explains."""
        ...

    async def state(self) -> ServiceState: ...
