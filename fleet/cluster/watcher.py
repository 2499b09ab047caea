"""The one who asks the registry who is champion, tells the replicas, and hears from them how they stand.

Replicas ask with a long poll that doubles as their sign of life. A registry that does not answer changes
nothing: what was known last goes on, also for replicas that begin meanwhile and for a watcher that starts
anew. Keeps results by idempotency key for when the ingress dies; knows nothing else of jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from fleet.errors import FleetError
from fleet.live import LiveState
from fleet.project import Project
from fleet.registry.store import Registry
from fleet.roster import Roster
from fleet.stores import open_registry
from fleet.web.backend import ServiceState, service_state
from fleet.web.kept import Kept, ProcessMemory

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Between two looks at the registry."""
PATIENCE_SECONDS = 5.0
"""How long a watcher that has something to go on with waits for its first look."""
REPORT_SECONDS = 2.0
"""Longest that a replica waits for news; then it asks again."""
SILENT_SECONDS = 4 * REPORT_SECONDS
"""After which a replica counts as gone."""
SERVING_TAG = "serving"
"""Tag of a version in MLflow that must not answer; its value says why."""


@dataclass(frozen=True, slots=True)
class _Report:
    state: LiveState
    at: float


@dataclass(slots=True)
class _Tagged:
    """What versions were tagged with, so that it is written once."""

    reasons: dict[tuple[str, int], str] = field(default_factory=dict)


class Watcher:
    """For one event loop."""

    async def __init__(self, root: str, *, poll_seconds: float = POLL_SECONDS) -> None:  # type: ignore[misc]  # awaited
        """Look once, and go on looking."""
        self._project = Project.find(root)
        self._registry: Registry = open_registry(self._project)
        self._poll = poll_seconds
        self._kept = self._project.state / "serving" / "roster.json"
        """For a watcher that starts while the registry is away."""
        self._fault = ""
        self._changed = asyncio.Event()
        self._reports: dict[str, _Report] = {}
        self._tagged = _Tagged()
        self._heard = asyncio.Event()
        self._given = ProcessMemory()
        self._started = time.time()
        self._roster: Roster | None = Roster.kept(self._kept)
        looking = asyncio.create_task(self.look())
        # Whoever knows something does not wait for a registry that hangs.
        await asyncio.wait({looking}, timeout=None if self._roster is None else PATIENCE_SECONDS)
        self._watching = asyncio.create_task(self._watch(looking))

    async def first(self) -> Roster | None:
        """What is known; None while nothing ever was."""
        return self._roster

    async def exchange(self, replica: str, state: LiveState, known: str) -> Roster | None:
        """How a replica stands, for what it does not know yet; waits a little when there is nothing new."""
        self._reports[replica] = _Report(state, time.monotonic())
        self._heard.set()
        if self._roster is None or self._roster.name == known:
            try:
                await asyncio.wait_for(self._changed.wait(), REPORT_SECONDS)
            except TimeoutError:
                return None
        return self._roster if self._roster is not None and self._roster.name != known else None

    async def leave(self, replica: str) -> None:
        """The replica has ended."""
        self._reports.pop(replica, None)

    async def recall(self, key: str) -> Kept | None:
        """What an idempotency key was given, for an ingress that began after that."""
        return await self._given.recall(key)

    async def keep(self, key: str, kept: Kept) -> Kept:
        """Keep what an idempotency key is given, unless something is there; what holds from now on."""
        return await self._given.keep(key, kept)

    async def state(self) -> ServiceState:
        with contextlib.suppress(TimeoutError):  # a watcher that starts anew has heard from nobody yet
            await asyncio.wait_for(self._heard.wait(), REPORT_SECONDS)
        now = time.monotonic()
        self._reports = {r: report for r, report in self._reports.items() if now - report.at < SILENT_SECONDS}
        roster = self._roster or Roster({}, None)
        states = [report.state for report in self._reports.values()]
        return service_state(roster, states, registry_fault=self._fault, started=self._started)

    async def look(self) -> None:
        """Ask the registry now, whatever the time: what a webhook would do."""
        try:
            roster = await asyncio.to_thread(Roster.read, self._registry)
        except FleetError as error:
            if not self._fault:
                log.warning("%s; hosting goes on with what was known last", error)
            self._fault = str(error)
            return
        if self._fault:
            log.info("the registry answers again")
        self._fault = ""
        if self._roster is None or self._roster.name != roster.name:
            self._roster = roster
            self._changed.set()
            self._changed = asyncio.Event()
            try:
                await asyncio.to_thread(roster.write, self._kept)
            except OSError as error:
                log.warning("the champions cannot be kept for a restart: %s", error)

    async def _watch(self, looking: asyncio.Task[None]) -> None:
        while True:
            try:
                await looking
                await self._tag()
            except Exception:  # of ours; watching must not end while there are replicas
                log.exception("a look at the registry failed")
            await asyncio.sleep(self._poll)
            looking = asyncio.create_task(self.look())

    async def _tag(self) -> None:
        """Say on a version in MLflow that replicas refuse it, and take it back when they do not any more."""
        if self._roster is None or self._fault:
            return
        refused = {
            (s.task, s.wanted): s.reason
            for report in self._reports.values()
            for s in report.state.standings
            if s.reason
        }
        wanted: Mapping[tuple[str, int], str] = {**dict.fromkeys(self._tagged.reasons, ""), **refused}
        for (task, version), reason in wanted.items():
            if self._tagged.reasons.get((task, version), "") == reason:
                continue
            try:
                info = await asyncio.to_thread(self._registry.version, task, version)
                await asyncio.to_thread(
                    self._registry.set_tags, info, {SERVING_TAG: reason and f"refused: {reason}"}
                )
            except FleetError as error:
                log.warning("%s version %d cannot be tagged: %s", task, version, error)
                continue
            if reason:
                self._tagged.reasons[task, version] = reason
            else:
                self._tagged.reasons.pop((task, version), None)
