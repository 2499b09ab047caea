"""The same idempotency key never gives two different answers. Knows nothing of what is done."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fleet.job import ITS_OWN, Result
from fleet.web.caller import caller
from fleet.web.errors import Refusal
from fleet.web.kept import Kept, Memory, ProcessMemory

LASTING = ITS_OWN | {None}
"""What a result says that is kept; every other failure may pass, and the key may try again."""

Work = Callable[[Sequence[int]], Awaitable[list[Result]]]
"""Answers the jobs at these places of a request."""


@dataclass(slots=True)
class _Going:
    content: str
    """Digest of the request."""
    task: asyncio.Task[list[Result]]
    waiting: int = 0
    """Requests that wait for it."""


class Once:
    """Work by key: going on for as long as somebody waits for it, and kept when it is done."""

    def __init__(self, memory: Memory | None = None) -> None:
        """``memory`` is this process's if not given."""
        self._memory: Memory = memory or ProcessMemory()
        self._going: dict[str, _Going] = {}

    async def do(self, key: str, request: str, jobs: int, work: Work) -> list[Result]:
        """What this key has been given; ``work`` is done for those of its ``jobs`` that have nothing yet.

        Raises ``Refusal`` if the key was another request's.
        """
        content = hashlib.sha256(request.encode()).hexdigest()
        who = caller.get()
        # Two callers may have had the same idea, and a key may be made anew under its old name.
        place = f"{who.name}\n{sorted(who.tasks or ())}\n{key}"
        going = self._going.get(place) or self._begin(place, content, jobs, work)
        _check(content, going.content)
        going.waiting += 1
        try:
            return await asyncio.shield(going.task)
        finally:
            going.waiting -= 1
            if not going.waiting and not going.task.done():
                self._forget(place, going)  # who comes now begins anew
                going.task.cancel()

    def _begin(self, place: str, content: str, jobs: int, work: Work) -> _Going:
        # In a context of its own: it is nobody's request, and does not end with the first one's.
        own = contextvars.Context()
        own.run(caller.set, caller.get())
        task = asyncio.get_running_loop().create_task(self._done(place, content, jobs, work), context=own)
        going = _Going(content, task)
        going.task.add_done_callback(lambda _: self._forget(place, going))
        self._going[place] = going
        return going

    async def _done(self, place: str, content: str, jobs: int, work: Work) -> list[Result]:
        kept = await self._memory.recall(place) or Kept(content, (None,) * jobs)
        _check(content, kept.content)
        open_ = [number for number, result in enumerate(kept.results) if result is None]
        if not open_:
            return [result for result in kept.results if result is not None]
        came = dict(zip(open_, await work(open_), strict=True))
        lasting = tuple(
            result if result is not None and result.code in LASTING else None
            for result in (came.get(number, kept.results[number]) for number in range(jobs))
        )
        if any(result is not None for result in lasting):
            kept = await self._memory.keep(place, Kept(content, lasting))
            _check(content, kept.content)
        return [result or came[number] for number, result in enumerate(kept.results)]

    def _forget(self, place: str, going: _Going) -> None:
        if self._going.get(place) is going:
            del self._going[place]


def _check(content: str, known: str) -> None:
    if content != known:
        raise Refusal(422, "key-reused", "this idempotency key belongs to another request")
