"""A backend in this process: one live host, no cluster. For tests, and for whoever embeds the interface."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from fleet.awaiting import AwaitedHost
from fleet.job import Job, Result
from fleet.live import LiveHost
from fleet.profile import Profile
from fleet.roster import Roster
from fleet.web.backend import ServiceState, service_state


class LocalBackend:
    """``live`` is open, and closed by whoever opened it."""

    def __init__(self, live: LiveHost, roster: Roster) -> None:
        self._live = live
        self._roster = roster
        self._host = AwaitedHost(live)
        self._started = time.time()

    def follow(self, roster: Roster) -> None:
        """Want these champions from now on."""
        self._roster = roster
        self._live.follow(roster)

    async def answer(
        self, jobs: Sequence[Job], *, top: int = 1, seconds: float | None = None
    ) -> list[Result]:
        return await self._host.answer(jobs, top=top, seconds=seconds)

    async def stream(self, job: Job, *, seconds: float | None = None) -> AsyncIterator[str | Result]:
        async for item in self._host.stream(job, seconds=seconds):
            yield item

    async def profile(self, task: str) -> Profile | None:
        return await self._host.profile(task)

    async def state(self) -> ServiceState:
        state = await asyncio.to_thread(self._live.state)
        return service_state(self._roster, [state], started=self._started)

    async def hint(self) -> None:
        """Whoever embeds the interface looks at the registry, and calls ``follow``."""
