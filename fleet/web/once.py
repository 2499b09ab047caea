"""The same idempotency key never gives two different answers. Knows nothing of what is done."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cachetools import TTLCache

from fleet.job import ITS_OWN, Result
from fleet.web.errors import Refusal

KEPT_SECONDS = 600
KEPT_REQUESTS = 10_000


@dataclass(frozen=True, slots=True)
class _Done:
    content: str
    """Digest of the request."""
    results: asyncio.Future[list[Result]]


class Once:
    """Results by key, for ten minutes. A request that failed in a way that may pass is not remembered."""

    def __init__(self) -> None:
        self._done: TTLCache[str, _Done] = TTLCache(KEPT_REQUESTS, KEPT_SECONDS)

    async def do(self, key: str, request: str, work: Callable[[], Awaitable[list[Result]]]) -> list[Result]:
        """The results of the first request with this key; ``work`` is done if this is the first.

        Raises ``Refusal`` if the key was another request's.
        """
        content = hashlib.sha256(request.encode()).hexdigest()
        found = self._done.get(key)
        if found is not None:
            if found.content != content:
                raise Refusal(422, "key-reused", f"the idempotency key {key!r} belongs to another request")
            return await asyncio.shield(found.results)
        task = asyncio.ensure_future(work())
        self._done[key] = _Done(content, task)
        try:
            # Who asks again while the first one has gone away still gets its answer.
            results = await asyncio.shield(task)
        except BaseException:
            if task.done():
                self._done.pop(key, None)
            raise
        if any(result.code is not None and result.code not in ITS_OWN for result in results):
            self._done.pop(key, None)
        return results
