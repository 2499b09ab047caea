"""Results that were given for idempotency keys, for a while. Knows nothing of requests or of who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cachetools import TTLCache

from fleet.job import Result

KEPT_SECONDS = 600
KEPT_RESULTS = 20_000


@dataclass(frozen=True, slots=True)
class Kept:
    """What a key has been given."""

    content: str
    """Digest of the request."""
    results: tuple[Result, ...]


class Memory(Protocol):
    """Where they are kept."""

    async def recall(self, key: str) -> Kept | None:
        """What the key has been given; None if nothing is known of it."""
        ...

    async def keep(self, key: str, kept: Kept) -> Kept:
        """Keep it, unless something is there already; what holds from now on."""
        ...


class ProcessMemory:
    """In this process, for ten minutes."""

    def __init__(self) -> None:
        self._kept: TTLCache[str, Kept] = TTLCache(
            KEPT_RESULTS, KEPT_SECONDS, getsizeof=lambda kept: len(kept.results)
        )

    async def recall(self, key: str) -> Kept | None:
        return self._kept.get(key)

    async def keep(self, key: str, kept: Kept) -> Kept:
        return self._kept.setdefault(key, kept)
