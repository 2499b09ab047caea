"""What one router has decided, counted by five minutes of the clock. Knows nothing of jobs or of replicas.

Stretches are those of Unix time, so that counts of several processes add up; they are kept for a day.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fleet.routing.decision import Kind

__all__ = ["KEPT", "STRETCH_SECONDS", "Decided", "Stretch", "Tally"]

STRETCH_SECONDS = 300
KEPT = 288
"""Stretches that are remembered: a day."""


class Stretch(NamedTuple):
    """Decisions of one stretch; a tuple, as a replica sends hundreds of them again and again."""

    number: int
    """Unix time by ``STRETCH_SECONDS``."""
    jobs: int
    abstained: int
    clarified: int
    compound: int = 0


@dataclass(frozen=True, slots=True)
class Decided:
    """What one process has counted of one router's decisions."""

    router_version: int
    stretches: tuple[Stretch, ...]
    """With a job at least, in order."""


class Tally:
    """Counts of the newest router; another version begins anew. Any thread may ask."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._version: int | None = None
        self._stretches: deque[Stretch] = deque(maxlen=KEPT)

    def add(self, router_version: int, kind: Kind) -> None:
        number = int(self._clock() // STRETCH_SECONDS)
        with self._lock:
            if router_version != self._version:
                self._version = router_version
                self._stretches.clear()
            # A clock that was set back counts in the newest stretch, so that they stay in order.
            if self._stretches and self._stretches[-1].number >= number:
                last = self._stretches.pop()
            else:
                last = Stretch(number, 0, 0, 0)
            kinds = (int(kind == each) for each in ("abstain", "clarify", "compound"))
            counts = (before + one for before, one in zip(last[2:], kinds, strict=True))
            self._stretches.append(Stretch(last.number, last.jobs + 1, *counts))

    def decided(self) -> Decided | None:
        """As it is now; None before the first decision."""
        with self._lock:
            return None if self._version is None else Decided(self._version, tuple(self._stretches))
