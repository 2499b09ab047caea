"""What passes is counted: a backend's results, an application's requests. Knows nothing of its content."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet.job import Job, Result
from fleet.profile import Profile
from fleet.web.backend import Backend, ServiceState
from fleet.web.gate import CALLER, METRICS
from fleet.web.metrics import NONE, Metrics

STATE_SECONDS = 2.0
"""How long a page of metrics waits for the state; then it comes without."""
CLOSED = 499
"""Status of a request whose client went away before there was one."""


class Metered:
    """``backend``, with every result counted, those of streams too."""

    def __init__(self, backend: Backend, metrics: Metrics) -> None:
        self._backend = backend
        self._metrics = metrics

    async def answer(
        self, jobs: Sequence[Job], *, top: int = 1, seconds: float | None = None
    ) -> list[Result]:
        try:
            results = await self._backend.answer(jobs, top=top, seconds=seconds)
        except asyncio.CancelledError:
            for job in jobs:
                self._metrics.cancelled(job)
            raise
        for job, result in zip(jobs, results, strict=True):
            self._metrics.ended(job, result)
        return results

    def stream(self, job: Job, *, seconds: float | None = None) -> AsyncIterator[str | Result]:
        """What is refused is refused at once, as ``backend`` does it."""
        return self._counted(job, self._backend.stream(job, seconds=seconds))

    async def _counted(self, job: Job, items: AsyncIterator[str | Result]) -> AsyncIterator[str | Result]:
        ended = False
        try:
            async for item in items:
                if isinstance(item, Result):
                    ended = True
                    self._metrics.ended(job, item)
                yield item
        except (asyncio.CancelledError, GeneratorExit):
            if not ended:  # who has the result may well leave
                self._metrics.cancelled(job)
            raise

    async def state(self) -> ServiceState:
        return await self._backend.state()

    async def profile(self, task: str) -> Profile | None:
        return await self._backend.profile(task)

    async def hint(self) -> None:
        await self._backend.hint()


class Timed:
    """ASGI middleware: every request by route, status and name of its key."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = CLOSED, time.perf_counter()

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        except Exception:
            status = 500
            raise
        finally:
            # Its pattern, not its path, which is the client's to choose.
            route = getattr(scope.get("route"), "path", NONE)
            spent = time.perf_counter() - began
            self._metrics.request(route, status, scope.get(CALLER, NONE), spent)


def metrics_routes(backend: Backend, metrics: Metrics) -> APIRouter:
    """``/metrics`` over the whole state, whoever asks: the gate knows who may."""
    routes = APIRouter()

    @routes.get(METRICS, tags=["health"], response_class=PlainTextResponse)
    async def page(request: Request) -> Response:
        """Everything that is counted, as Prometheus reads it."""
        state = await _soon(backend)
        content, media_type = await asyncio.to_thread(metrics.page, state, request.headers.get("accept", ""))
        return Response(content, media_type=media_type)

    return routes


async def _soon(backend: Backend) -> ServiceState | None:
    """The state; None if it does not come."""
    asked = asyncio.ensure_future(backend.state())
    # Not wait_for, which waits on until what it gave up has ended.
    await asyncio.wait([asked], timeout=STATE_SECONDS)
    if not asked.done():
        asked.cancel()
        return None
    return None if asked.exception() is not None else asked.result()
