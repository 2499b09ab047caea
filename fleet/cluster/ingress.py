"""The door: the web interface over the replicas. A replica that dies under a job costs time, not an answer.

Knows nothing of how a job is answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from fleet.job import Job, Result
from fleet.profile import Profile
from fleet.web.app import make_app
from fleet.web.backend import ServiceState
from fleet.web.settings import WebSettings

log = logging.getLogger(__name__)

GONE = (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError)
"""The replica has died or cannot be reached; another one can answer, as a job changes nothing."""
ATTEMPTS = 4
SHARE = 32
"""Jobs of one request that go to one replica together."""


class ReplicaBackend:
    """Whoever answers, behind handles."""

    def __init__(self, replicas: Any, watcher: Any) -> None:
        self._replicas = replicas
        self._streaming = replicas.options(stream=True)
        self._watcher = watcher

    async def answer(
        self, jobs: Sequence[Job], *, top: int = 1, seconds: float | None = None
    ) -> list[Result]:
        shares = [jobs[start : start + SHARE] for start in range(0, len(jobs), SHARE)]
        calls = [self._share(share, top, seconds) for share in shares]
        return [result for results in await asyncio.gather(*calls) for result in results]

    async def _share(self, jobs: Sequence[Job], top: int, seconds: float | None) -> list[Result]:
        try:
            async for attempt in _retrying():
                with attempt:
                    asked = self._replicas.answer.remote(jobs, top, seconds)
                    try:
                        results: list[Result] = await asked
                    except asyncio.CancelledError:
                        asked.cancel()  # Ray ends it by itself only with the request that it belongs to
                        raise
                    return results
        except BackPressureError:
            reason = "every replica has as many requests as it may"
            return [Result(j.id, None, error=reason, code="overloaded", retry_after=1) for j in jobs]
        except GONE as error:
            return [_lost(job, error) for job in jobs]
        raise AssertionError("an attempt returns or raises")

    async def stream(self, job: Job, *, seconds: float | None = None) -> AsyncIterator[str | Result]:
        told = False
        try:
            async for attempt in _retrying():
                with attempt:
                    try:
                        async for item in self._streaming.stream.remote(job, seconds):
                            told = True
                            yield item
                        return
                    except GONE as error:
                        if told:  # another replica would begin anew, and the reader has read already
                            yield _lost(job, error)
                            return
                        raise
        except BackPressureError:
            yield Result(job.id, None, error="every replica is busy", code="overloaded", retry_after=1)
        except GONE as error:
            yield _lost(job, error)

    async def profile(self, task: str) -> Profile | None:
        try:
            async for attempt in _retrying():
                with attempt:
                    profile: Profile | None = await self._replicas.profile.remote(task)
                    return profile
        except (BackPressureError, *GONE) as error:
            log.warning("what %s is for cannot be asked: %s", task, type(error).__name__)
        return None

    async def state(self) -> ServiceState:
        state: ServiceState = await self._watcher.state.remote()
        return state

    async def hint(self) -> None:
        await self._watcher.hint.remote()


def _retrying() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(GONE),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
    )


def _lost(job: Job, error: Exception) -> Result:
    log.warning("a job is lost with its replica: %s", type(error).__name__)
    reason = "the replica that was answering is gone: send the job again"
    return Result(job.id, None, error=reason, code="failed", retry_after=1)


class Ingress:
    """What Serve wraps."""

    def __init__(self, replicas: Any, watcher: Any, settings: WebSettings) -> None:
        self._backend = ReplicaBackend(replicas, watcher)
        self._settings = settings

    def __serve_build_asgi_app__(self) -> Any:
        return make_app(self._backend, version=version("taskfleet"), settings=self._settings)
