"""How fast jobs have ended lately, for whoever has to say when to come again. Knows nothing of jobs."""

from __future__ import annotations

import math
from collections import deque


class Pace:
    """Of the last jobs; not for use by several threads at once."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=64)

    def ended(self, now: float) -> None:
        self._ends.append(now)

    def seconds(self, jobs: int) -> int:
        """Until half of so many jobs will have ended; at least 1, at most 60."""
        if len(self._ends) < 2 or self._ends[-1] <= self._ends[0]:
            return 1
        each = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return max(1, min(60, math.ceil(each * jobs / 2)))
