"""The one who asks the registry who is champion, tells the replicas, and hears from them how they stand.

Replicas ask with a long poll that doubles as their sign of life. Polling is the truth; a hint only makes the
next look come at once. A registry that does not answer changes nothing: what was known last goes on, also
for replicas that begin meanwhile and for a watcher that starts anew. Keeps the listening socket, and results
by idempotency key, for when the ingress dies; knows nothing else of jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fleet.cluster.keeper import SocketKeeper, borrowed, listening
from fleet.cluster.tags import VersionTags
from fleet.errors import FleetError
from fleet.live import LiveState
from fleet.project import Project
from fleet.registry.pulse import Beat, Pulse
from fleet.registry.store import Registry
from fleet.roster import Roster
from fleet.stores import open_registry
from fleet.web.backend import ServiceState, service_state
from fleet.web.kept import Kept, ProcessMemory

log = logging.getLogger(__name__)
Value = TypeVar("Value")

POLL_SECONDS = 1.0
"""Between two looks at the registry."""
PULSES = 5
"""Times in between that a store is asked whether anything has changed, where it says so at no cost."""
LEAST_PULSE_SECONDS = 0.02
REST, MOST_REST_SECONDS = 3.0, 3.0
"""From one look to the next, in times of what one takes, as with thousands of experts it takes more than a
second; and the longest that it makes."""
TRUST, MOST_TRUST_SECONDS = 30, 60.0
"""Looks that are spared in a row because nothing has changed; then there is one all the same."""
PATIENCE_SECONDS = 5.0
"""How long a watcher that has something to go on with waits for its first look."""
REPORT_SECONDS = 2.0
"""Longest that a replica waits for news; then it asks again."""
SILENT_SECONDS = 4 * REPORT_SECONDS
"""After which a replica counts as gone."""
GONE = 32
"""Replicas of which it is remembered what they compared and decided."""
HINT_SECONDS = 0.2
"""Least pause between two looks, however many hints come."""


@dataclass(frozen=True, slots=True)
class _Report:
    state: LiveState
    at: float


class Watcher:
    """For one event loop."""

    async def __init__(self, root: str, *, poll_seconds: float = POLL_SECONDS) -> None:  # type: ignore[misc]  # awaited
        """Look once, and go on looking."""
        self._door: tuple[tuple[str, int], SocketKeeper] | None = None
        self._project = Project.find(root)
        self._registry: Registry = open_registry(self._project)
        self._poll = poll_seconds
        self._kept = kept_roster(self._project)
        self._fault = ""
        self._changed = asyncio.Event()
        self._hinted = asyncio.Event()
        self._reports: dict[str, _Report] = {}
        self._gone: dict[str, LiveState] = {}
        """What replicas said last that are not heard of any more."""
        self._tags = VersionTags(self._registry)
        self._pulse = Pulse(self._project.tracking_uri)
        self._beat: Beat | None = None
        """The store's when it was looked at last; None if that has failed, or it has none."""
        self._looked, self._took = -math.inf, 0.0
        """When it was looked at last, and how long that took."""
        self._heard = asyncio.Event()
        self._given = ProcessMemory()
        self._started = time.time()
        self._told = -math.inf
        """When tags may be written again."""
        self._roster: Roster | None = Roster.kept(self._kept)
        looking = asyncio.create_task(self.look())
        # Whoever knows something does not wait for a registry that hangs.
        await asyncio.wait({looking}, timeout=None if self._roster is None else PATIENCE_SECONDS)
        self._watching = asyncio.create_task(self._watch(looking))

    def __del__(self) -> None:
        """Serve's way to say that it is over."""
        if self._door is not None:
            self._door[1].close()

    async def first(self) -> Roster | None:
        """What is known; None while nothing ever was."""
        return self._roster

    async def exchange(self, replica: str, state: LiveState, known: str) -> Roster | None:
        """How a replica stands, for what it does not know yet; waits a little when there is nothing new."""
        await self.report(replica, state)
        if self._roster is None or self._roster.name == known:
            try:
                await asyncio.wait_for(self._changed.wait(), REPORT_SECONDS)
            except TimeoutError:
                return None
        return self._roster if self._roster is not None and self._roster.name != known else None

    async def report(self, replica: str, state: LiveState) -> None:
        """How a replica stands, when that has changed."""
        self._reports[replica] = _Report(state, time.monotonic())
        self._gone.pop(replica, None)
        self._heard.set()

    async def hint(self) -> None:
        """Something may have changed in the registry: look soon. What it is the registry itself says."""
        self._hinted.set()

    async def recall(self, key: str) -> Kept | None:
        """What an idempotency key was given, for an ingress that began after that."""
        return await self._given.recall(key)

    async def keep(self, key: str, kept: Kept) -> Kept:
        """Keep what an idempotency key is given, unless something is there; what holds from now on."""
        return await self._given.keep(key, kept)

    async def door(self, host: str, port: int) -> str:
        """Where an ingress of this machine is lent the socket that it listens on, the same one each time.

        Raises ``ClusterError`` when the port cannot be had.
        """
        if self._door is None or self._door[0] != (host, port):
            await self.shut_door()
            self._door = (host, port), SocketKeeper(listening(host, port))
        self._door = (host, port), self._door[1].anew()
        return self._door[1].path

    async def keep_door(self, host: str, port: int, path: str) -> None:
        """Keep the socket too that an ingress is lending, if it is not kept here already."""
        if self._door is None:
            self._door = (host, port), SocketKeeper(borrowed(path))

    async def shut_door(self) -> None:
        """Keep no socket any more."""
        if self._door is not None:
            self._door[1].close()
            self._door = None

    async def state(self) -> ServiceState:
        """How the service stands; a watcher that starts anew waits until it has heard from somebody."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._heard.wait(), REPORT_SECONDS)
        return self._state()

    def _state(self) -> ServiceState:
        now = time.monotonic()
        silent = [name for name, report in self._reports.items() if now - report.at >= SILENT_SECONDS]
        for name in silent:
            self._gone[name] = self._reports.pop(name).state
        self._gone = dict(list(self._gone.items())[-GONE:])
        return service_state(
            self._roster or Roster({}, None),
            [report.state for report in self._reports.values()],
            registry_fault=self._fault,
            started=self._started,
            gone=list(self._gone.values()),
        )

    async def look(self) -> None:
        """Ask the registry now."""
        beat, self._beat, self._looked = await asyncio.to_thread(self._pulse), None, time.monotonic()
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
        self._beat, self._took = beat, time.monotonic() - self._looked
        if self._roster is None or self._roster.name != roster.name:
            self._roster = roster
            self._changed.set()
            self._changed = asyncio.Event()
            try:
                await asyncio.to_thread(roster.write, self._kept)
            except OSError as error:
                log.warning("the champions cannot be kept for a restart: %s", error)

    async def _seen(self, looking: asyncio.Task[Value]) -> Value:
        """Wait for a look, and say so if it takes long: MLflow's client tries for minutes."""
        await asyncio.wait({looking}, timeout=PATIENCE_SECONDS)
        if not looking.done() and not self._fault:
            self._fault = f"the registry has not answered for {PATIENCE_SECONDS:.0f} s"
        return await looking

    async def _watch(self, looking: asyncio.Task[None]) -> None:
        with contextlib.suppress(Exception):  # the next look says so too
            await self._seen(looking)
        self._took = 0.0  # MLflow was loaded on the way
        while True:
            pause = self._rest() if self._beat is None else self._poll / PULSES
            with contextlib.suppress(TimeoutError):
                pause = min(REPORT_SECONDS, max(LEAST_PULSE_SECONDS, pause))
                await asyncio.wait_for(self._hinted.wait(), pause)
            looked = False
            try:
                if self._hinted.is_set() or await self._seen(asyncio.create_task(self._due())):
                    self._hinted.clear()
                    looked = True
                    await self._seen(asyncio.create_task(self.look()))
                now = time.monotonic()
                if self._roster is not None and not self._fault and now >= self._told:
                    self._told = now + min(self._poll, REPORT_SECONDS)
                    await asyncio.to_thread(self._tags.write, self._roster, self._state())
            except Exception:  # of ours; watching must not end while there are replicas
                log.exception("a look at the registry failed")
            if looked:
                await asyncio.sleep(min(HINT_SECONDS, self._poll))

    async def _due(self) -> bool:
        """Whether it is time for a look, and there is something to be seen."""
        if self._rest() > 0:
            return False
        trusted = min(TRUST * self._poll, MOST_TRUST_SECONDS)
        if self._beat is None or time.monotonic() >= self._looked + trusted:
            return True
        beat = await asyncio.to_thread(self._pulse)
        return beat != self._beat or self._fault != ""  # which may have come while it was waited for

    def _rest(self) -> float:
        """Seconds until there may be another look, if nobody hints at it."""
        pause = max(self._poll, min(REST * self._took, MOST_REST_SECONDS))
        return self._looked + pause - time.monotonic()


def kept_roster(project: Project) -> Path:
    """The file with what was known last, for a watcher that starts while the registry is away."""
    return project.state / "serving" / "roster.json"
