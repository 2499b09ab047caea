"""A live host for callers that await: results as coroutines, texts as they are written.

A caller that goes away takes its job along. Knows nothing of networks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fleet.errors import OverloadError
from fleet.job import Job, Result
from fleet.live import Errand, LiveHost
from fleet.profile import Profile


class AwaitedHost:
    """For use in one event loop."""

    def __init__(self, live: LiveHost) -> None:
        self._live = live

    async def answer(
        self, jobs: Sequence[Job], *, top: int = 1, seconds: float | None = None
    ) -> list[Result]:
        """A result for each job in their order; one that cannot be taken on has the code ``overloaded``."""
        return await asyncio.gather(*(self._one(job, top, seconds) for job in jobs))

    async def profile(self, task: str) -> Profile | None:
        return await asyncio.to_thread(self._live.profile, task)

    async def _one(self, job: Job, top: int, seconds: float | None) -> Result:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Result] = loop.create_future()

        def end(result: Result) -> None:
            if not ended.done():
                ended.set_result(result)

        try:
            errand = self._live.submit(job, lambda result: _soon(loop, end, result), top=top, seconds=seconds)
        except OverloadError as error:
            return _overloaded(job, error)
        try:
            return await ended
        except asyncio.CancelledError:
            self._live.cancel(errand)
            raise

    async def stream(self, job: Job, *, seconds: float | None = None) -> AsyncIterator[str | Result]:
        """Pieces of the text as they are certain, then the result; labels and records come in one piece."""
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[str | Result] = asyncio.Queue()
        errand: Errand | None = None
        try:
            errand = self._live.submit(
                job,
                lambda result: _soon(loop, told.put_nowait, result),
                on_text=lambda text: _soon(loop, told.put_nowait, text),
                seconds=seconds,
            )
        except OverloadError as error:
            yield _overloaded(job, error)
            return
        try:
            while True:
                item = await told.get()
                if isinstance(item, Result):
                    errand = None
                yield item
                if errand is None:
                    return
        finally:
            if errand is not None:
                self._live.cancel(errand)


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[Any], None], item: str | Result) -> None:
    """Have the loop make a call; a loop that is closed has nobody left who waits."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, item)


def _overloaded(job: Job, error: OverloadError) -> Result:
    return Result(job.id, None, error=str(error), code="overloaded", retry_after=error.seconds)
