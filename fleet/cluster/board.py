"""Where workers say what they do and the driver reads it; nobody ever waits for it to train.

An actor that keeps each task's newest word of every state, so that it stays small however slow the
driver is and no change of state is missed. Losing it loses a picture, never a training. Knows
nothing of how trainings are started.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # its module imports torch, which the actor's process does without
    from fleet.engine.train import Progress

POST_SECONDS = 0.2
"""Least time between two posts about one task; a change of state is posted at once."""


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has taken up a cohort."""

    tasks: tuple[str, ...]
    node: str
    """The machine's address."""
    pid: int
    attempt: int
    """1 for the first; more after lost workers."""


class Board:
    """The actor's class; its methods run one at a time in one event loop."""

    def __init__(self) -> None:
        self._news: dict[str, bytes] = {}
        self._arrived = asyncio.Event()

    async def post(self, about: str, news: bytes) -> None:
        # Popped first: what comes last is read last.
        self._news.pop(about, None)
        self._news[about] = news
        self._arrived.set()

    async def drain(self, seconds: float) -> list[bytes]:
        """What is new since the last call; waits for something up to ``seconds``."""
        try:
            await asyncio.wait_for(self._arrived.wait(), seconds)
        except TimeoutError:
            return []
        news = list(self._news.values())
        self._news.clear()
        self._arrived.clear()
        return news


class Poster:
    """A worker's way to the board: fire and forget, and not more often than anyone can read."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._posted: dict[str, tuple[str, float]] = {}

    def started(self, tasks: tuple[str, ...], node: str, attempt: int) -> None:
        self._post(f"{'/'.join(tasks)}/attempt {attempt}", Started(tasks, node, os.getpid(), attempt))

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        state, when = self._posted.get(progress.task, ("", 0.0))
        if state == progress.state and now - when < POST_SECONDS:
            return
        self._posted[progress.task] = (progress.state, now)
        self._post(f"{progress.task}/{progress.state}", progress)

    def _post(self, about: str, news: Started | Progress) -> None:
        # Pickled here, so that the board need not import what it only passes on.
        self._board.post.remote(about, pickle.dumps(news))


def read(news: bytes) -> Started | Progress:
    """What a worker posted; to be called with what ``drain`` gave, and nothing else."""
    found: Started | Progress = pickle.loads(news)
    return found
