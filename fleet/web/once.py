"""The same idempotency key never gives two different answers. Knows nothing of what is done."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fleet.job import Result
from fleet.web.errors import Refusal
from fleet.web.kept import Kept, Memory, ProcessMemory

LASTING = (None, "bad-job", "unknown-task")
"""What a result says that is kept; every other failure may pass, and the key may try again."""


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
        self._memory: Memory = memory or ProcessMemory()
        self._going: dict[str, _Going] = {}

    async def do(self, key: str, request: str, work: Callable[[], Awaitable[list[Result]]]) -> list[Result]:
        """The results of the first request with this key; ``work`` is done if this is the first.

        Raises ``Refusal`` if the key was another request's.
        """
        content = hashlib.sha256(request.encode()).hexdigest()
        going = self._going.get(key) or self._begin(key, content, work)
        _check(key, content, going.content)
        going.waiting += 1
        try:
            return await asyncio.shield(going.task)
        finally:
            going.waiting -= 1
            if not going.waiting and not going.task.done():
                self._forget(key, going)  # who comes now begins anew
                going.task.cancel()

    def _begin(self, key: str, content: str, work: Callable[[], Awaitable[list[Result]]]) -> _Going:
        going = _Going(content, asyncio.ensure_future(self._done(key, content, work)))
        going.task.add_done_callback(lambda _: self._forget(key, going))
        self._going[key] = going
        return going

    async def _done(
        self, key: str, content: str, work: Callable[[], Awaitable[list[Result]]]
    ) -> list[Result]:
        kept = await self._memory.recall(key)
        if kept is None:
            results = await work()
            if any(result.code not in LASTING for result in results):
                return results
            kept = await self._memory.keep(key, Kept(content, tuple(results)))
        _check(key, content, kept.content)
        return list(kept.results)

    def _forget(self, key: str, going: _Going) -> None:
        if self._going.get(key) is going:
            del self._going[key]


def _check(key: str, content: str, known: str) -> None:
    if content != known:
        raise Refusal(422, "key-reused", f"the idempotency key {key!r} belongs to another request")
