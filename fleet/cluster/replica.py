"""One replica: a base, a live host over it, and its conversation with the watcher. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from fleet.asking import ROUTED_TOKENS
from fleet.awaiting import AwaitedHost
from fleet.cluster.scaling import JOBS
from fleet.engine.specs import Weights
from fleet.errors import ClusterError
from fleet.host import Host
from fleet.job import Job, Result
from fleet.live import Limits, LiveHost
from fleet.loaded import EXPERT_BYTES
from fleet.profile import Profile
from fleet.project import Project
from fleet.roster import Roster
from fleet.shadow import Shadow
from fleet.stores import artifact_cache, open_base, open_registry

log = logging.getLogger(__name__)

NEWS_SECONDS = 0.1
"""Least pause between two pieces of news."""


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What every replica is told."""

    root: str
    weights: Weights = "bf16"
    threads: int = 1
    room: int = EXPERT_BYTES
    max_tokens: int = ROUTED_TOKENS
    limits: Limits = field(default_factory=Limits)
    shadow: float = 0.0
    """Share of the jobs that challengers are asked too."""


class Replica:
    """For one event loop; what answers runs in threads of its own."""

    async def __init__(self, settings: ReplicaSettings, watcher: Any) -> None:  # type: ignore[misc]  # awaited
        """Load the base and begin. Raises ``ClusterError`` while nothing is known of any champion."""
        self._watcher = watcher
        self._name = uuid.uuid4().hex
        roster: Roster | None = await watcher.first.remote()
        if roster is None:
            raise ClusterError("the registry cannot be asked and nothing is known of an earlier time")
        loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        self._live = await asyncio.to_thread(_begin, settings, roster, partial(_soon, loop, self._news))
        self._awaited = AwaitedHost(self._live)
        self._talking = asyncio.create_task(self._talk(roster.name))
        self._telling = asyncio.create_task(self._tell())

    async def answer(
        self, jobs: Sequence[Job], top: int = 1, seconds: float | None = None
    ) -> AsyncIterator[list[Result]]:
        """All results at once, as a stream of one item: of a plain call by gRPC, Serve's router hears nothing
        before its end, and would send the next ones to the same replica."""
        yield await self._awaited.answer(jobs, top=top, seconds=seconds)

    async def stream(self, job: Job, seconds: float | None = None) -> AsyncIterator[str | Result]:
        async for item in self._awaited.stream(job, seconds=seconds):
            yield item

    async def profile(self, task: str) -> Profile | None:
        return await self._awaited.profile(task)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve, which adds and removes replicas by it where it may."""
        return {JOBS: float(self._live.waiting)}

    async def check_health(self) -> None:
        """For Serve, which starts another replica instead of one that raises."""
        if not self._live.running:
            raise ClusterError("the thread that answers, or the one that follows champions, has ended")

    async def _talk(self, known: str) -> None:
        while True:
            try:
                state = await asyncio.to_thread(self._live.state)
                roster: Roster | None = await self._watcher.exchange.remote(self._name, state, known)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # a watcher that is started anew; what is known goes on
                log.warning("the watcher does not answer: %s", error)
                await asyncio.sleep(1.0)
                continue
            if roster is not None:
                self._live.follow(roster)
                known = roster.name

    async def _tell(self) -> None:
        """Say at once what has changed here; the long poll would say it a little later."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._watcher.report.remote(self._name, await asyncio.to_thread(self._live.state))
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.warning("the watcher does not answer: %s", error)
            await asyncio.sleep(NEWS_SECONDS)


def _soon(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    """Set it from another thread; a loop that is closed has nobody left who waits."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(news.set)


def _begin(settings: ReplicaSettings, roster: Roster, on_change: Callable[[], None]) -> LiveHost:
    torch.set_num_threads(settings.threads)
    project = Project.find(settings.root)
    host = Host(
        open_base(project),
        open_registry(project),
        depth=project.config.trunk_layers,
        cache=artifact_cache(project),
        weights=settings.weights,
        room=settings.room,
        max_tokens=settings.max_tokens,
    )
    shadow = Shadow(host, settings.shadow) if settings.shadow else None
    live = LiveHost(host, settings.limits, shadow=shadow, on_change=on_change)
    live.open(roster)
    return live
