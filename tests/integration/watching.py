"""A watcher in this process, without a cluster, and a registry for it to watch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fleet.cluster.watcher import Watcher
from fleet.job import Job, Result
from fleet.roster import Roster
from fleet.web.backend import ServiceState
from fleet.workshop import Workshop, open_shop

SECONDS = 60.0
Value = TypeVar("Value")


class Watching:
    """A watcher in a loop of its own, and the backend that passes hints on to it."""

    def __init__(self, root: Path, *, poll_seconds: float) -> None:
        self.hints = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.watcher = Watcher.__new__(Watcher)
        # As Ray does: an actor's constructor may be a coroutine.
        self.do(Watcher.__init__(self.watcher, str(root), poll_seconds=poll_seconds))  # type: ignore[arg-type]

    def do(self, call: Coroutine[Any, Any, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(SECONDS)

    def roster(self) -> Roster:
        found = self.do(self.watcher.first())
        assert found is not None
        return found

    def close(self) -> None:
        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    async def hint(self) -> None:
        self.hints += 1
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.watcher.hint(), self._loop))

    async def answer(self, jobs: Sequence[Job], **options: Any) -> list[Result]:
        raise NotImplementedError

    def stream(self, job: Job, **options: Any) -> Any:
        raise NotImplementedError

    async def state(self) -> ServiceState:
        raise NotImplementedError


def two_moods(root: Path, mlflow_template: Path) -> Workshop:
    """A shop with one task and two versions, the first of them champion."""
    made = open_shop(root, mlflow_template)
    made.make("mood", "mood")
    made.make("mood", "mood", seed=1, promote=False)
    return made
