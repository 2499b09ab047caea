"""A backend that lets each caller do what that one may, and no more. Knows nothing of keys or HTTP.

Jobs are counted, not requests, and one for several experts as so many, or as two where the router is to find
them, in a window that moves. The counts are in this process's memory, which is all there is as long as there
is one ingress; they begin anew with it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import AsyncIterator, Sequence

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from fleet.job import Job, Result
from fleet.profile import Profile
from fleet.web.backend import Backend, ServiceState
from fleet.web.caller import Caller, caller
from fleet.web.errors import Refusal


class Guarded:
    """``backend`` for whoever is the ``caller``. What one may not do raises ``Refusal`` before any work."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def answer(
        self, jobs: Sequence[Job], *, top: int = 1, seconds: float | None = None
    ) -> list[Result]:
        who = caller.get()
        self._charge(who, sum(_experts(job, top) for job in jobs))
        if who.tasks is None:
            return await self._backend.answer(jobs, top=top, seconds=seconds)
        jobs = [dataclasses.replace(job, allowed=who.tasks) for job in jobs]
        going = [job for job in jobs if not job.forbidden]
        results = iter(await self._backend.answer(going, top=top, seconds=seconds) if going else ())
        return [_forbidden(who, job) if job.forbidden else next(results) for job in jobs]

    def stream(self, job: Job, *, seconds: float | None = None) -> AsyncIterator[str | Result]:
        """Refuses when it is called, not when it is read, while a status can still be sent."""
        who = caller.get()
        self._charge(who, _experts(job, 1))
        if who.tasks is not None:
            job = dataclasses.replace(job, allowed=who.tasks)
            if job.forbidden:
                raise Refusal(403, "forbidden", _reason(who, job))
        return self._backend.stream(job, seconds=seconds)

    async def state(self) -> ServiceState:
        """Without the tasks that the caller may not ask."""
        state, tasks = await self._backend.state(), caller.get().tasks
        return state if tasks is None else state.within(tasks)

    async def profile(self, task: str) -> Profile | None:
        """None for a task that the caller may not ask."""
        tasks = caller.get().tasks
        return None if tasks is not None and task not in tasks else await self._backend.profile(task)

    async def hint(self) -> None:
        await self._backend.hint()

    def _charge(self, who: Caller, jobs: int) -> None:
        if who.per_minute is None:
            return
        if jobs > who.per_minute:
            raise Refusal(
                422,
                "too-many-jobs",
                f"the request is {jobs} jobs (one for several experts is so many), the key {who.name} may "
                f"send {who.per_minute} a minute: send fewer at a time",
            )
        limit = RateLimitItemPerMinute(who.per_minute)
        if self._limiter.hit(limit, who.name, cost=jobs):
            return
        window = self._limiter.get_window_stats(limit, who.name)
        wait = max(1, math.ceil(window.reset_time - time.time()))
        raise Refusal(
            429,
            "rate-limited",
            f"the key {who.name} may send {who.per_minute} jobs a minute and has {window.remaining} left, "
            f"the request is {jobs}: some more in {wait} s",
            {"Retry-After": str(wait)},
        )


def _experts(job: Job, top: int) -> int:
    """That it may cost; one for all that it needs is taken for two, the fewest that are several."""
    return max(top, len(job.tasks), 2 if job.all else 1)


def _reason(who: Caller, job: Job) -> str:
    return (
        f"the key {who.name} may not ask {', '.join(job.forbidden)}; "
        f"it may ask: {', '.join(sorted(job.allowed or ()))}"
    )


def _forbidden(who: Caller, job: Job) -> Result:
    return Result(job.id, None, error=_reason(who, job), code="forbidden")
