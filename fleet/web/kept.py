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
    results: tuple[Result | None, ...]
    """By job; None for one that may be tried again."""

    def over(self, later: Kept) -> Kept:
        """With what a later try of the same request has for the jobs that have nothing here."""
        return Kept(self.content, tuple(a or b for a, b in zip(self.results, later.results, strict=True)))


class Memory(Protocol):
    """Where they are kept."""

    async def recall(self, key: str) -> Kept | None:
        """What the key has been given; None if nothing is known of it."""
        ...

    async def keep(self, key: str, kept: Kept) -> Kept:
        """Keep it, except for jobs for which something is there already; what holds from now on."""
        ...


class ProcessMemory:
    """In this process, for ten minutes; less where more than 20,000 results come in that time."""

    def __init__(self) -> None:
        self._kept: TTLCache[str, Kept] = TTLCache(
            KEPT_RESULTS, KEPT_SECONDS, getsizeof=lambda kept: len(kept.results)
        )

    async def recall(self, key: str) -> Kept | None:
        return self._kept.get(key)

    async def keep(self, key: str, kept: Kept) -> Kept:
        before = self._kept.get(key)
        if before is not None and before.content == kept.content:
            kept = before.over(kept)
        elif before is not None:
            return before
        self._kept[key] = kept
        return kept
