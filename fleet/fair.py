"""Work that waits, shared out fairly between tasks. Knows nothing of jobs or models.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) over tokens, which is also the virtual token
counter of Sheng et al. (OSDI 2024): a task that gets work done runs ahead, and who is least far ahead is
next. A task that had nothing to do starts where the others are, so that idleness earns no credit. A flood
on one task therefore costs the others no more than one task's share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """First in, first out within a task; between tasks, whoever had least. Not for use by several threads."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[Item, float]]] = {}
        self._ahead: dict[str, float] = {}
        self._now = 0.0
        """How far ahead the task was that was served last."""

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def waiting(self, task: str) -> int:
        return len(self._waiting.get(task, ()))

    def put(self, task: str, item: Item, cost: float) -> None:
        """``cost`` is what the work takes, in any unit that is the same for all."""
        if task not in self._waiting:
            self._waiting[task] = deque()
            self._ahead[task] = max(self._ahead.get(task, 0.0), self._now)
        self._waiting[task].append((item, cost))

    def pop(self, ready: Callable[[Item], bool] = lambda item: True) -> Item | None:
        """The next item; a task whose first one is not ready is passed over. None if there is none."""
        for task in sorted(self._waiting, key=lambda task: (self._ahead[task], task)):
            item, cost = self._waiting[task][0]
            if ready(item):
                self._now = self._ahead[task]
                self._ahead[task] += cost
                self._waiting[task].popleft()
                self._tidy(task)
                return item
        return None

    def remove(self, unwanted: Callable[[Item], bool]) -> list[Item]:
        """Take out all such items."""
        taken: list[Item] = []
        for task, queue in list(self._waiting.items()):
            taken += [item for item, _ in queue if unwanted(item)]
            self._waiting[task] = deque(entry for entry in queue if not unwanted(entry[0]))
            self._tidy(task)
        return taken

    def _tidy(self, task: str) -> None:
        if not self._waiting[task]:
            del self._waiting[task]
            # How far ahead it is counts until all that wait have come as far.
            self._ahead = {
                name: ahead
                for name, ahead in self._ahead.items()
                if name in self._waiting or ahead > self._now
            }
