"""What a service writes on versions in MLflow, for those who decide there: that a version is refused and why,
and how a challenger compares with its champion. Knows nothing of replicas.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from fleet.errors import FleetError
from fleet.registry.store import ROUTER, Registry
from fleet.roster import Roster
from fleet.web.backend import ServiceState
from fleet.web.challenger import ChallengerState

log = logging.getLogger(__name__)

SERVING_TAG = "serving"
"""Of a version that must not answer; its value says why."""
SHADOW_TAG = "shadow"
"""Of a challenger that shadows."""
SHADOW_SECONDS = 30.0
"""Between two writings of what changes with every job."""

AGAIN_SECONDS = 60.0

Version = tuple[str, int]


class VersionTags:
    """Writes what has changed. For one thread."""

    def __init__(self, registry: Registry, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._refused: dict[Version, str] = {}
        """What versions are tagged with."""
        self._seen_sound: set[Version] = set()
        self._put_off: dict[tuple[Version, str], float] = {}
        """When those are tried again that could not be tagged: deleted versions, registries to read only."""
        self._shadows: dict[Version, tuple[str, float]] = {}
        """What challengers are tagged with, and since when."""

    def write(self, roster: Roster, state: ServiceState) -> None:
        """Never raises for a version that cannot be tagged; it is tried again a minute later."""
        refused, sound = _refused(state)
        for info in [*roster.champions.values(), *([] if roster.router is None else [roster.router])]:
            # Of an earlier service, perhaps; only once somebody has found the version sound is it wrong.
            version = (info.task, info.version)
            if info.tags.get(SERVING_TAG) and version in sound and version not in self._seen_sound:
                self._refused.setdefault(version, info.tags[SERVING_TAG])
                self._seen_sound.add(version)
        for version in [*self._refused, *refused]:
            reason = f"refused: {refused[version]}" if version in refused else ""
            if self._refused.get(version, "") != reason and self._tag(version, SERVING_TAG, reason):
                self._refused[version] = reason
        self._refused = {version: reason for version, reason in self._refused.items() if reason}
        for expert in state.experts:
            if expert.challenger is not None and expert.challenger.asked:
                self._shadow(expert.task, expert.challenger)

    def _shadow(self, task: str, challenger: ChallengerState) -> None:
        version, text = (task, challenger.version), in_words(challenger)
        written, at = self._shadows.get(version, ("", -SHADOW_SECONDS))
        now = self._clock()
        if text != written and now - at >= SHADOW_SECONDS and self._tag(version, SHADOW_TAG, text):
            self._shadows[version] = text, now

    def _tag(self, version: Version, tag: str, text: str) -> bool:
        task, number = version
        if self._clock() < self._put_off.get((version, tag), 0.0):
            return False
        try:
            self._registry.set_tags(self._registry.version(task, number), {tag: text})
        except FleetError as error:
            log.warning("%s version %d cannot be tagged: %s", task, number, error)
            self._put_off[version, tag] = self._clock() + AGAIN_SECONDS
            return False
        self._put_off.pop((version, tag), None)
        return True


def _refused(state: ServiceState) -> tuple[dict[Version, str], set[Version]]:
    """Versions that somebody wants and a replica refuses, with the reason; and those that all have."""
    refused: dict[Version, str] = {}
    sound: set[Version] = set()
    for expert in state.experts:
        if expert.reason:
            refused[expert.task, expert.wanted] = expert.reason
        elif expert.version == expert.wanted and expert.state == "ready":
            sound.add((expert.task, expert.wanted))
        if expert.challenger is not None and expert.challenger.state == "quarantined":
            refused[expert.task, expert.challenger.version] = expert.challenger.reason
    if state.router_wanted is not None:
        if state.router_fault and state.replicas:
            refused[ROUTER, state.router_wanted] = state.router_fault
        elif state.router_version == state.router_wanted:
            sound.add((ROUTER, state.router_wanted))
    return refused, sound


def in_words(challenger: ChallengerState) -> str:
    """``as version 3 on 41 of 44 jobs; 12 ms, version 3 14 ms``."""
    if not challenger.asked:
        return "nothing compared yet"
    agreed = round((challenger.agreement or 0.0) * challenger.asked)
    parts = [f"as version {challenger.champion} on {agreed} of {challenger.asked} jobs"]
    if challenger.failed:
        parts.append(f"no answer to {challenger.failed} ({challenger.failure})")
    parts += [f"{name} {share:.0%}" for name, share in challenger.fields.items()]
    if challenger.likeness is not None:
        parts.append(f"{challenger.likeness:.0%} of the words the same")
    ours, theirs = challenger.challenger_ms, challenger.champion_ms
    if ours is not None and theirs is not None:
        parts.append(f"{ours:.0f} ms, version {challenger.champion} {theirs:.0f} ms")
    return "; ".join(parts)
