"""A host kept in line with a roster, beside its work: versions are checked first and take over afterwards.

A version that takes over from another one does so when it is in memory; until then, and if it must not
answer, the old one goes on. A task without a version so far has the new one at once, and its jobs wait for
it. What fails is tried again, later each time. Knows nothing of jobs, of registries or of polling.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from fleet.errors import FleetError
from fleet.host import Host, LoadedRouter
from fleet.loaded import CheckedExpert
from fleet.registry.version import VersionInfo
from fleet.roster import Roster

log = logging.getLogger(__name__)

FIRST_RETRY, LONGEST_RETRY = 5.0, 300.0
"""Seconds until a version that failed is tried again, doubled each time."""

State = Literal["ready", "waiting", "quarantined"]


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


@dataclass(slots=True)
class _Retry:
    attempts: int = 0
    at: float = 0.0


@dataclass(slots=True)
class _Wishes:
    """What is still to be done; guarded by the follower's lock."""

    roster: Roster = field(default_factory=lambda: Roster({}, None))
    needed: dict[str, VersionInfo] = field(default_factory=dict)
    """By digest, in the order in which jobs asked."""


class Follower:
    """One thread that checks; the host's own thread is only asked to put in place what was checked."""

    def __init__(
        self,
        host: Host,
        post: Callable[[Callable[[], None]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``post`` has a call made by the host's thread, in order."""
        self._host = host
        self._post = post
        self._clock = clock
        self._wishes = _Wishes()
        self._retries: dict[str, _Retry] = {}
        self._router: VersionInfo | None = None
        """The router that is in place."""
        self._router_retry = _Retry()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="fleet-follower", daemon=True)

    def open(self, roster: Roster) -> None:
        """Begin, before the host's thread does: the router is checked here and now."""
        self._wishes.roster = roster
        self._take_over(roster)
        if roster.router is not None:
            self._check_router(roster.router)
        self._thread.start()

    def close(self) -> None:
        """End after the check that is going on."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def follow(self, roster: Roster) -> None:
        """Want these champions and this router; any thread may say so."""
        with self._changed:
            self._wishes.roster = roster
            self._changed.notify()
        self._post(lambda: self._take_over(roster))

    def need(self, info: VersionInfo) -> None:
        """A job waits for this version."""
        with self._changed:
            self._wishes.needed.setdefault(info.digest or info.label, info)
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
        elif live is not None and live.digest in self._host.experts:
            state = "ready"
        return Standing(
            info.task,
            info.version,
            "" if live is None else live.digest,
            None if live is None else live.version,
            state,
            fault,
        )

    # ---- in the follower's thread

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                work = self._next()
                if work is None:
                    self._changed.wait(1.0)
                    continue
            try:
                work()
                self._settle()
            except Exception:  # of ours; the versions that are in place go on
                log.exception("the champions cannot be followed")
                time.sleep(FIRST_RETRY)

    def _next(self) -> Callable[[], None] | None:
        wishes, host = self._wishes, self._host
        while wishes.needed:
            info = wishes.needed.pop(next(iter(wishes.needed)))
            if info.digest not in host.experts and host.fault(info) is None:
                return partial(self._check, info)
        router = wishes.roster.router
        if router is not None and not _same(router, self._router) and self._clock() >= self._router_retry.at:
            return partial(self._check_router, router)
        for info in wishes.roster.champions.values():
            live = host.champions.get(info.task)
            replaces = live is not None and not _same(live, info)
            if host.fault(info) is not None:
                if self._due(info):
                    return partial(self._check, info)
            elif info.digest not in host.experts and (replaces or not host.experts.full):
                return partial(self._check, info)
        return None

    def _due(self, info: VersionInfo) -> bool:
        """Whether a version that failed is to be tried again; one that failed at work waits from now."""
        retry = self._retries.get(info.digest)
        if retry is None:
            self._put_off(self._retries.setdefault(info.digest, _Retry()))
            return False
        return self._clock() >= retry.at

    def _put_off(self, retry: _Retry) -> None:
        retry.at = self._clock() + min(LONGEST_RETRY, FIRST_RETRY * 2**retry.attempts)
        retry.attempts += 1

    def _check(self, info: VersionInfo) -> None:
        try:
            checked = self._host.check(info)
        except FleetError as error:
            self._put_off(self._retries.setdefault(info.digest, _Retry()))
            reason = str(error)
            self._post(lambda: self._host.quarantine(info, reason))
        else:
            self._retries.pop(info.digest, None)
            self._post(lambda: self._put_in_place(info, checked))

    def _check_router(self, info: VersionInfo) -> None:
        host = self._host
        try:
            loaded = host.check_router(info)
        except FleetError as error:
            self._put_off(self._router_retry)
            reason = str(error)
            log.error("router version %d cannot be used: %s", info.version, reason)
            self._post(lambda: setattr(host, "router_fault", reason))
        else:
            self._router, self._router_retry = info, _Retry()
            self._post(lambda: self._put_router(loaded))

    def _settle(self) -> None:
        """Wait until the host's thread has done what was posted, or what is next would be decided blindly."""
        done = threading.Event()
        self._post(done.set)
        while not done.wait(1.0) and not self._closed:
            pass

    # ---- in the host's thread

    def _take_over(self, roster: Roster) -> None:
        """What needs no check: new tasks, tasks that go, versions that are in memory still."""
        champions = self._host.champions
        for task in [task for task in champions if task not in roster.champions]:
            log.info("%s has no champion any more", task)
            del champions[task]
        for task, info in roster.champions.items():
            if task not in champions or info.digest in self._host.experts:
                self._put(info)
        if roster.router is None:
            self._router = None
            self._host.router, self._host.router_fault = None, "there is no router yet"

    def _put_in_place(self, info: VersionInfo, checked: CheckedExpert) -> None:
        self._host.add(checked)
        wanted = self._wishes.roster.champions.get(info.task)
        if wanted is not None and _same(wanted, info):
            self._put(info)

    def _put(self, info: VersionInfo) -> None:
        live = self._host.champions.get(info.task)
        if live is None or not _same(live, info):
            before = "nobody" if live is None else f"version {live.version}"
            log.info("%s version %d takes over from %s", info.task, info.version, before)
            self._host.champions[info.task] = info

    def _put_router(self, loaded: LoadedRouter) -> None:
        if self._wishes.roster.router is not None:
            log.info("router version %d takes over", loaded.version)
            self._host.router = loaded


def _same(one: VersionInfo, other: VersionInfo | None) -> bool:
    return other is not None and (one.version, one.digest) == (other.version, other.digest)
