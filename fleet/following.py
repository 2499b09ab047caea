"""A host kept in line with a roster, beside its work: versions are checked first and take over afterwards.

A version that takes over from another one does so when it is in memory; until then, and if it must not
answer, the old one goes on. A task without a version so far has the new one at once, and its jobs wait for
it. What fails is tried again, later each time, and at once when somebody wants it anew. Challengers come
last of all, and only where somebody shadows. Knows nothing of jobs, of registries or of polling.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from fleet.backoff import Backoff
from fleet.checked import CheckedExpert, LoadedRouter
from fleet.comparison import Comparison
from fleet.errors import FleetError, RegistryError
from fleet.host import Host
from fleet.registry.version import VersionInfo
from fleet.roster import Roster
from fleet.shadow import Shadow

log = logging.getLogger(__name__)

RECOVERY = 5.0
"""Seconds after a failure of ours."""
PATIENCE = 2
"""Attempts after which a version that the registry does not give counts as one that must not answer."""

State = Literal["ready", "waiting", "quarantined"]
NO_ROOM = "there is no room for it beside the other challengers: it waits until one of them goes"
"""Said of a challenger with which nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a host stands to one task's champion."""

    task: str
    wanted: int
    """The version that the roster names."""
    digest: str
    """Of the version that answers."""
    version: int | None
    """The version that answers, or would if it were ready; None before the task has one."""
    state: State
    """``ready`` in memory, ``waiting`` to be checked when it is its turn or a job needs it."""
    reason: str
    """Why the wanted version must not answer; empty if it may, as far as is known."""


@dataclass(frozen=True, slots=True)
class RouterStanding:
    """How a host stands to the router."""

    wanted: int | None = None
    """The version that the roster names."""
    version: int | None = None
    """The version that decides."""
    reason: str = ""
    """Why the wanted version does not decide; empty if it does, or is to be checked still."""
    tasks: tuple[str, ...] = ()
    """Those that it can route to if they have a champion."""


@dataclass(frozen=True, slots=True)
class ChallengerStanding:
    """How a host that shadows stands to one task's challenger."""

    task: str
    version: int
    digest: str
    state: State
    reason: str
    """Why it is not asked; empty of one that is only to be checked still."""
    champion: int
    """The champion's version that answers; 0 if there is none for a moment."""
    comparison: Comparison | None
    """With that champion."""


@dataclass(slots=True)
class _Wishes:
    """What is still to be done; guarded by the follower's lock."""

    roster: Roster = field(default_factory=lambda: Roster({}, None))
    needed: dict[tuple[str, str], VersionInfo] = field(default_factory=dict)
    """In the order in which jobs asked."""


class Follower:
    """One thread that checks; the host's own thread is only asked to put in place what was checked."""

    def __init__(
        self,
        host: Host,
        post: Callable[[Callable[[], None]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        shadow: Shadow | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """``post`` has a call made by the host's thread, in order; ``on_change`` is called by it too."""
        self._host = host
        self._post = post
        self._shadow = shadow
        self._on_change = on_change
        self._wishes = _Wishes()
        self._backoff = Backoff(clock)
        self._router: VersionInfo | None = None
        """The router that is in place."""
        self._router_fault = ""
        """Why the one that is wanted is not."""
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="fleet-follower", daemon=True)

    def open(self, roster: Roster) -> None:
        """Begin, before the host's thread does: the router is checked here and now."""
        self._wishes.roster = roster
        self._take_over(roster)
        if roster.router is not None:
            self._check_router(roster.router)()
        self._thread.start()

    def close(self) -> None:
        """End after the check that is going on."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def running(self) -> bool:
        """Whether versions are checked still, as they are from ``open`` to ``close``."""
        return self._thread.is_alive()

    def follow(self, roster: Roster) -> None:
        """Want these champions and this router; any thread may say so."""
        self._post(lambda: self._turn_to(roster))

    def need(self, info: VersionInfo) -> None:
        """A job waits for this version."""
        with self._changed:
            self._wishes.needed.setdefault(info.key, info)
            self._changed.notify()

    def standings(self) -> list[Standing]:
        """How each task of the roster stands."""
        champions: Mapping[str, VersionInfo] = self._wishes.roster.champions
        return [self._standing(info) for info in champions.values()]

    def _standing(self, info: VersionInfo) -> Standing:
        live = self._host.champions.get(info.task)
        fault = self._host.fault(info) or ""
        state: State = "waiting"
        if live is not None and self._host.fault(live) is not None:
            state = "quarantined"
        elif live is not None and self._host.holds(live):
            state = "ready"
        return Standing(
            info.task,
            info.version,
            "" if live is None else live.digest,
            None if live is None else live.version,
            state,
            fault,
        )

    def router(self) -> RouterStanding:
        """How the router stands."""
        wanted, live = self._wishes.roster.router, self._host.router
        return RouterStanding(
            None if wanted is None else wanted.version,
            None if live is None else live.version,
            self._router_fault,
            () if live is None else live.router.tasks,
        )

    def challengers(self) -> list[ChallengerStanding]:
        """How each challenger stands; none where nobody shadows."""
        shadow = self._shadow
        if shadow is None:
            return []
        standings = []
        for info in dict(shadow.challengers).values():
            fault = shadow.fault(info) or ""
            state: State = "quarantined" if fault else "ready" if shadow.holds(info) else "waiting"
            live = self._host.champions.get(info.task)
            if state == "waiting" and shadow.full:
                fault = NO_ROOM
            standings.append(
                ChallengerStanding(
                    info.task,
                    info.version,
                    info.digest,
                    state,
                    fault,
                    0 if live is None else live.version,
                    None if live is None else shadow.comparison(live, info),
                )
            )
        return standings

    # ---- in the follower's thread

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
            try:
                with self._changed:
                    work = self._next()
                    if work is None:
                        self._changed.wait(1.0)
                        continue
                work()
                self._settle()
            except Exception:  # of ours; the versions that are in place go on
                log.exception("the champions cannot be followed")
                time.sleep(RECOVERY)

    def _next(self) -> Callable[[], None] | None:
        """What to do now: promotions first, then what jobs wait for, then what may be needed one day."""
        wishes, host = self._wishes, self._host
        champions = wishes.roster.champions.values()
        for info in champions:
            live = host.champions.get(info.task)
            if live is not None and not _same(live, info) and self._to_check(info):
                return partial(self._check, info)
        for key, info in list(wishes.needed.items()):
            settled = host.holds(info) or host.fault(info) is not None
            if settled or not self._backoff.waits(info.key):
                del wishes.needed[key]
            if not settled and key not in wishes.needed:
                return partial(self._check, info)
        router = wishes.roster.router
        if router is not None and not _same(router, self._router) and not self._backoff.waits(router.key):
            return lambda: self._post(self._check_router(router))
        for info in champions:
            if self._to_check(info) and (host.fault(info) is not None or not host.experts.full):
                return partial(self._check, info)
        if self._shadow is not None:
            for info in dict(self._shadow.challengers).values():
                failed = self._shadow.fault(info) is not None
                known = not self._due(info) if failed else self._shadow.holds(info)
                if not known and not self._shadow.full:
                    return partial(self._check_challenger, info, self._shadow)
        return None

    def _to_check(self, info: VersionInfo) -> bool:
        if self._host.fault(info) is not None:
            return self._due(info)
        return not self._host.holds(info) and not self._backoff.waits(info.key)

    def _due(self, info: VersionInfo) -> bool:
        """Whether a version that failed is to be tried again; one that failed at work waits from now."""
        if info.key not in self._backoff:
            self._backoff.put_off(info.key)
        return not self._backoff.waits(info.key)

    def _check(self, info: VersionInfo) -> None:
        try:
            checked = self._host.check(info)
        except FleetError as error:
            attempts = self._backoff.put_off(info.key)
            reason = str(error)
            if isinstance(error, RegistryError) and attempts <= PATIENCE:
                # It may be sound: whoever waits for it goes on waiting.
                log.warning("%s could not be fetched and is tried again: %s", info.label, reason)
                self.need(info)
                return
            self._post(lambda: self._refuse(info, reason))
        else:
            self._backoff.forget(info.key)
            self._post(lambda: self._put_in_place(info, checked))

    def _check_challenger(self, info: VersionInfo, shadow: Shadow) -> None:
        try:
            checked = self._host.check(info)
        except FleetError as error:
            reason = str(error)
            with self._changed:
                champion = self._wishes.roster.champions.get(info.task)
                if champion is None or not _same(champion, info):  # promoted meanwhile, it is tried as such
                    self._backoff.put_off(info.key)
            self._post(lambda: shadow.quarantine(info, reason))
        else:
            self._backoff.forget(info.key)
            self._post(lambda: shadow.add(info, checked))
        self._post(self._on_change)

    def _check_router(self, info: VersionInfo) -> Callable[[], None]:
        """Check a router; what is to be done in the host's thread then."""
        try:
            loaded = self._host.check_router(info)
        except FleetError as error:
            self._backoff.put_off(info.key)
            reason = str(error)
            log.error("router version %d cannot be used: %s", info.version, reason)
            return lambda: self._refuse_router(info, reason)
        self._backoff.forget(info.key)
        return lambda: self._put_router(info, loaded)

    def _settle(self) -> None:
        """Wait until the host's thread has done what was posted, or what is next would be decided blindly."""
        done = threading.Event()
        self._post(done.set)
        while not done.wait(1.0) and not self._closed:
            pass

    # ---- in the host's thread

    def _turn_to(self, roster: Roster) -> None:
        with self._changed:  # what is in memory takes its place before anybody looks what is to be checked
            for info in _wanted_anew(self._wishes.roster, roster):
                if info.key in self._backoff or self._host.fault(info) is not None:
                    # Whoever sets an alias means now, whatever became of this version before.
                    self._backoff.at_once(info.key)
            self._wishes.roster = roster
            self._take_over(roster)
            self._changed.notify()

    def _take_over(self, roster: Roster) -> None:
        """What needs no check: new tasks, tasks that go, versions that are in memory still."""
        host = self._host
        for task in [task for task in host.champions if task not in roster.champions]:
            log.info("%s has no champion any more", task)
            del host.champions[task]
        for task, info in roster.champions.items():
            passed = None if self._shadow is None else self._shadow.checked(info)
            if passed is not None and not host.holds(info) and host.fault(info) is None:
                host.add(passed)  # a challenger has passed the same checks
            if task not in host.champions or (host.holds(info) and host.fault(info) is None):
                self._put(info)
        if self._shadow is not None:
            self._shadow.want(roster.challengers)
        if roster.router is None:
            self._router, self._router_fault = None, ""
            host.router, host.router_fault = None, "there is no router yet"
        elif _same(roster.router, self._router):
            self._router_fault = ""
        self._on_change()

    def _put_in_place(self, info: VersionInfo, checked: CheckedExpert) -> None:
        self._host.add(checked)
        wanted = self._wishes.roster.champions.get(info.task)
        if wanted is not None and _same(wanted, info):
            self._put(info)
        self._on_change()

    def _refuse(self, info: VersionInfo, reason: str) -> None:
        self._host.quarantine(info, reason)
        self._on_change()

    def _put(self, info: VersionInfo) -> None:
        live = self._host.champions.get(info.task)
        if live is None or not _same(live, info):
            before = "nobody" if live is None else f"version {live.version}"
            log.info("%s version %d takes over from %s", info.task, info.version, before)
            self._host.champions[info.task] = info

    def _put_router(self, info: VersionInfo, loaded: LoadedRouter) -> None:
        wanted = self._wishes.roster.router
        if wanted is not None and _same(wanted, info):
            log.info("router version %d takes over", loaded.version)
            self._host.router, self._router, self._router_fault = loaded, info, ""
            self._on_change()

    def _refuse_router(self, info: VersionInfo, reason: str) -> None:
        wanted = self._wishes.roster.router
        if wanted is not None and _same(wanted, info):
            self._router_fault = reason
            if self._host.router is None:
                self._host.router_fault = reason
            self._on_change()


def _wanted_anew(before: Roster, after: Roster) -> list[VersionInfo]:
    """Versions that have an alias which they did not have."""
    anew = [i for task, i in after.champions.items() if not _same(i, before.champions.get(task))]
    anew += [i for task, i in after.challengers.items() if not _same(i, before.challengers.get(task))]
    if after.router is not None and not _same(after.router, before.router):
        anew.append(after.router)
    return anew


def _same(one: VersionInfo, other: VersionInfo | None) -> bool:
    return other is not None and (one.version, one.digest) == (other.version, other.digest)
