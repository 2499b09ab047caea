"""What the web interface needs of whoever answers. Knows no transport and no cluster."""

from __future__ import annotations

import time
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
from fleet.routing.shift import ShiftState
from fleet.web.challenger import WORSE, ChallengerState, challenger_state
from fleet.web.decisions import decisions_state


@dataclass(frozen=True, slots=True)
class ExpertState:
    """One task's expert, over all replicas."""

    task: str
    version: int | None
    """The champion that answers; where replicas differ for a moment, one that is to go."""
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
    routed: bool = True
    """Whether the router knows the task; if not, jobs must name it."""
    challenger: ChallengerState | None = None
    """Where challengers shadow."""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """How the service is at one moment."""

    replicas: int
    """That can take jobs."""
    experts: tuple[ExpertState, ...]
    router_version: int | None
    router_fault: str
    """Why the wanted router does not decide."""
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
    router_wanted: int | None = None
    """The version that the registry names as router."""
    decisions: ShiftState | None = None
    """What the router decides of late; None without one."""

    @property
    def ready(self) -> bool:
        return self.replicas > 0 and (bool(self.experts) or self.hidden)

    def within(self, tasks: Collection[str]) -> ServiceState:
        """What someone may see of it who may ask these tasks only."""
        seen = tuple(expert for expert in self.experts if expert.task in tasks)
        queued = {task: jobs for task, jobs in self.queued.items() if task in tasks}
        return replace(self, experts=seen, queued=queued, hidden=len(seen) < len(self.experts))


def service_state(
    roster: Roster,
    states: Sequence[LiveState],
    *,
    registry_fault: str = "",
    started: float = 0.0,
    gone: Sequence[LiveState] = (),
    now: float | None = None,
) -> ServiceState:
    """What replicas that follow a roster are together; of those that are ``gone`` only what they
    compared and decided counts. ``now`` is in Unix seconds."""
    routers = [state.router_version for state in states if state.router_version is not None]
    router = min(routers, default=None)
    queued: Counter[str] = Counter()
    for state in states:
        queued.update(state.queued)
    return ServiceState(
        replicas=len(states),
        experts=tuple(
            replace(
                _expert(info, states),
                routed=all(info.task in state.router.tasks for state in states),
                challenger=challenger_state(roster.challengers.get(info.task), states, gone),
            )
            for info in roster.champions.values()
        ),
        router_version=router,
        router_fault=next((f for state in states if (f := _router_fault(roster, state))), ""),
        waiting=sum(state.waiting for state in states),
        queued=dict(queued),
        registry_fault=registry_fault,
        started=started,
        router_wanted=None if roster.router is None else roster.router.version,
        decisions=decisions_state(router, states, gone, time.time() if now is None else now),
    )


def _router_fault(roster: Roster, state: LiveState) -> str:
    return state.router.reason or (state.router_fault if roster.router is None else "")


def _expert(info: VersionInfo, states: Sequence[LiveState]) -> ExpertState:
    standings = [s for state in states for s in state.standings if s.task == info.task]
    answering = [s for s in standings if s.version is not None]
    shown = next((s for s in answering if s.version != info.version), next(iter(answering), None))
    ready = sum(s.state == "ready" for s in standings)
    worst: State = "waiting" if not standings else max((s.state for s in standings), key=WORSE.index)
    return ExpertState(
        task=info.task,
        version=None if shown is None else shown.version,
        digest="" if shown is None else shown.digest,
        wanted=info.version,
        created=info.created.timestamp(),
        state=worst,
        ready_on=ready,
        reason=next((s.reason for s in standings if s.reason), ""),
    )


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

    async def hint(self) -> None:
        """Something may have changed in the registry; returns at once."""
        ...
