"""The door: the web interface over the replicas. A replica that dies under a job costs time, not an answer.

Knows nothing of how a job is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from grpc.aio import AioRpcError
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from fleet.cluster.keeper import SocketKeeper, borrowed
from fleet.cluster.listener import Listener
from fleet.cluster.proxy import Unanswered
from fleet.errors import ClusterError
from fleet.job import Job, Result
from fleet.profile import Profile
from fleet.roster import Roster
from fleet.web.app import make_app
from fleet.web.backend import ServiceState, service_state
from fleet.web.errors import Refusal
from fleet.web.kept import KEPT_SECONDS, Kept, ProcessMemory
from fleet.web.settings import WebSettings

log = logging.getLogger(__name__)

GONE = (
    RayActorError,
    NodeDiedError,
    ObjectLostError,  # it had answered, and died before the answer was fetched
    ReplicaUnavailableError,
    DeploymentUnavailableError,
    AioRpcError,  # as the connection says it
)
"""The replica has died or cannot be reached; another one can answer, as a job changes nothing."""
ATTEMPTS = 4
SHARE = 32
"""Jobs of one request that go to one replica together."""
DEADLINE_SECONDS = 2.0
"""How long after a job's time a replica may take to say that it is over."""
STATE_SECONDS = 3.0
"""How long the watcher may take to say how the service is; then it is what it was. One that begins waits for
the replicas, but not so long."""
PROFILE_SECONDS = 10.0
MEMORY_SECONDS = 5.0
"""How long the watcher may take to recall what an idempotency key was given."""


class ReplicaBackend:
    """Whoever answers, behind handles."""

    def __init__(self, replicas: Any, watcher: Any, seconds: float) -> None:
        """``seconds`` is how long a job may take that says nothing about it itself."""
        # By gRPC: by reference, a call goes through Ray's object store, which takes longer.
        self._replicas = replicas.options(
            _by_reference=False, request_serialization="pickle", response_serialization="pickle"
        )
        self._streaming = self._replicas.options(stream=True)
        self._watcher = watcher
        self._seconds = seconds
        self._state: ServiceState | None = None
        """As the watcher described it last."""

    async def answer(
        self, jobs: Sequence[Job], *, top: int = 1, seconds: float | None = None
    ) -> list[Result]:
        shares = [jobs[start : start + SHARE] for start in range(0, len(jobs), SHARE)]
        calls = [self._share(share, top, seconds) for share in shares]
        return [result for results in await asyncio.gather(*calls) for result in results]

    async def _share(self, jobs: Sequence[Job], top: int, seconds: float | None) -> list[Result]:
        clock = asyncio.get_running_loop().time
        over = clock() + (seconds or self._seconds)
        try:
            async with asyncio.timeout_at(over + DEADLINE_SECONDS):
                async for attempt in _retrying():
                    with attempt:
                        left = max(0.001, over - clock())
                        with _called(self._streaming.answer, jobs, top, left) as response:
                            results: list[list[Result]] = [item async for item in response]
                        return results[0]
        except TimeoutError:
            return [_late(job) for job in jobs]
        except BackPressureError:
            reason = "every replica has as many requests as it may"
            return [Result(j.id, None, error=reason, code="overloaded", retry_after=1) for j in jobs]
        except GONE as error:
            return [_lost(job, error) for job in jobs]
        raise AssertionError("an attempt returns or raises")

    async def stream(self, job: Job, *, seconds: float | None = None) -> AsyncIterator[str | Result]:
        told = False
        clock = asyncio.get_running_loop().time
        over = clock() + (seconds or self._seconds)
        try:
            async for attempt in _retrying():
                with attempt:
                    left = max(0.001, over - clock())
                    with _called(self._streaming.stream, job, left) as response:
                        items = aiter(response)
                        while True:
                            try:
                                async with asyncio.timeout_at(over + DEADLINE_SECONDS):
                                    item: str | Result = await anext(items)
                            except StopAsyncIteration:
                                return
                            except GONE as error:
                                if told:  # another replica would begin anew, and the reader has read already
                                    yield _lost(job, error)
                                    return
                                raise
                            told = True
                            yield item
        except TimeoutError:
            yield _late(job)
        except BackPressureError:
            yield Result(job.id, None, error="every replica is busy", code="overloaded", retry_after=1)
        except GONE as error:
            yield _lost(job, error)

    async def profile(self, task: str) -> Profile | None:
        try:
            async with asyncio.timeout(PROFILE_SECONDS):
                async for attempt in _retrying():
                    with attempt:
                        profile: Profile | None = await self._replicas.profile.remote(task)
                        return profile
        except (TimeoutError, BackPressureError, *GONE) as error:
            log.warning("what %s is for cannot be asked: %s", task, type(error).__name__)
        return None

    async def hint(self) -> None:
        with _unless_away():
            async with asyncio.timeout(STATE_SECONDS):
                await self._watcher.hint.remote()

    async def state(self) -> ServiceState:
        try:
            async with asyncio.timeout(STATE_SECONDS):
                self._state = await self._watcher.state.remote()
        except (TimeoutError, *GONE):
            # It begins anew somewhere; jobs are answered meanwhile.
            fault = "the registry's watcher does not answer"
            self._state = replace(self._state or service_state(Roster({}, None), []), registry_fault=fault)
        return self._state


class WatcherMemory:
    """Results by idempotency key, here and with the watcher: when one dies, the other one knows them."""

    def __init__(self, watcher: Any) -> None:
        self._here = ProcessMemory()
        self._watcher = watcher
        self._begun = time.monotonic()

    async def recall(self, key: str) -> Kept | None:
        """Raises ``Refusal`` when another ingress may have answered this key and nobody can say."""
        found = await self._here.recall(key)
        if found is not None:
            return found
        try:
            async with asyncio.timeout(MEMORY_SECONDS):
                found = await self._watcher.recall.remote(key)
        except (TimeoutError, *GONE) as error:
            log.warning("the watcher does not answer: %s", type(error).__name__)
            if time.monotonic() - self._begun < KEPT_SECONDS:
                raise Refusal(
                    503,
                    "failed",
                    "what this key was given is not known at present: send the request again",
                    {"Retry-After": "1"},
                ) from error
        return found

    async def keep(self, key: str, kept: Kept) -> Kept:
        with _unless_away():
            async with asyncio.timeout(MEMORY_SECONDS):
                kept = await self._watcher.keep.remote(key, kept)
        return await self._here.keep(key, kept)


@contextlib.contextmanager
def _unless_away() -> Iterator[None]:
    try:
        yield
    except (TimeoutError, *GONE) as error:
        log.warning("the watcher does not answer: %s", type(error).__name__)


@contextlib.contextmanager
def _called(method: Any, *args: Any) -> Iterator[Any]:
    """A call to a replica, which ends when nobody waits for it any more.

    Serve would tie it to the request that it is made in; but others may wait for the same answer.
    """
    response = contextvars.Context().run(method.remote, *args)
    try:
        yield response
    except (asyncio.CancelledError, GeneratorExit, TimeoutError):
        response.cancel()
        raise


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


def _late(job: Job) -> Result:
    return Result(job.id, None, error="the job's time is over", code="deadline")


class Ingress:
    """What Serve wraps: its proxy listens, and sends on what comes."""

    def __init__(self, replicas: Any, watcher: Any, settings: WebSettings, seconds: float) -> None:
        self._made = partial(_made, replicas, watcher, settings, seconds)

    def __serve_build_asgi_app__(self) -> Any:
        return self._made()


class Door:
    """The same, listening itself: nothing of a request passes through another process on its way.

    The watcher keeps the socket. When this process dies, connections that it had break; new ones wait for the
    next one.
    """

    async def __init__(  # type: ignore[misc]  # awaited
        self, replicas: Any, watcher: Any, settings: WebSettings, seconds: float, host: str, port: int
    ) -> None:
        """Raises ``ClusterError`` when the port cannot be had."""
        self._watcher, self._address, self._over = watcher, (host, port), False
        self._listener = Listener(Unanswered(_made(replicas, watcher, settings, seconds)))
        door = await asyncio.to_thread(borrowed, await watcher.door.remote(host, port))
        self._kept = SocketKeeper(door.dup())
        await self._listener.start(door)

    async def check_health(self) -> None:
        """For Serve, which starts another one instead of one that raises. A watcher that is new is lent the
        socket on the way."""
        if self._over:
            return
        if not self._listener.running:
            raise ClusterError("the server that listens has ended")
        try:
            self._kept = self._kept.anew()
            async with asyncio.timeout(STATE_SECONDS):
                await self._watcher.keep_door.remote(*self._address, self._kept.path)
        except Exception as error:  # jobs are answered all the same
            log.warning("the watcher does not keep the socket: %s", error or type(error).__name__)

    async def leave(self) -> None:
        """Take nothing more, while there are replicas still for what is being answered."""
        self._over = True
        try:
            async with asyncio.timeout(STATE_SECONDS):
                await self._watcher.shut_door.remote()
        except Exception as error:  # it is about to end as well
            log.warning("the watcher keeps the socket: %s", error or type(error).__name__)
        self._kept.close()
        await self._listener.stop()

    def __del__(self) -> None:
        """Serve's way to say that it is over."""
        self._listener.end()


def _made(replicas: Any, watcher: Any, settings: WebSettings, seconds: float) -> FastAPI:
    return make_app(
        ReplicaBackend(replicas, watcher, seconds),
        version=version("taskfleet"),
        settings=settings,
        memory=WatcherMemory(watcher),
    )
