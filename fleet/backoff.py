"""When what failed is to be tried again. Knows not what it is; any thread may ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

__all__ = ["Backoff"]

FIRST_RETRY, LONGEST_RETRY = 5.0, 300.0
"""Seconds until a thing that failed is tried again, doubled each time."""
DOUBLED = 16
"""Times, at most: the longest is reached long before, and floats end."""


@dataclass(slots=True)
class _Retry:
    attempts: int = 0
    at: float = 0.0


class Backoff:
    """Of things by their key; what has not failed is not in it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._retries: dict[Hashable, _Retry] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._retries

    def put_off(self, key: Hashable) -> int:
        """It failed (again); how often by now."""
        retry = self._retries.setdefault(key, _Retry())
        retry.at = self._clock() + min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(retry.attempts, DOUBLED))
        retry.attempts += 1
        return retry.attempts

    def waits(self, key: Hashable) -> bool:
        """Whether it failed and its time has not come."""
        retry = self._retries.get(key)
        return retry is not None and self._clock() < retry.at

    def at_once(self, key: Hashable) -> None:
        """Its time has come, and what was before is forgotten."""
        self._retries[key] = _Retry()

    def forget(self, key: Hashable) -> None:
        """It did not fail."""
        self._retries.pop(key, None)
