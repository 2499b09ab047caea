"""One line per task on what the registry holds and how it differs from the project's files.

Knows nothing of manifests: the caller says which digests it would train with today.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from fleet.registry.lifecycle import observe
from fleet.registry.store import ROUTER, Registry
from fleet.registry.version import VersionInfo

DRIFT = {"manifest_digest": "manifest", "data_digest": "data", "base_fingerprint": "base"}
"""Tag of a version to the word that ``fleet status`` shows when the file behind it has changed."""


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What ``fleet status`` shows of one task."""

    task: str
    champion: VersionInfo | None
    challenger: VersionInfo | None
    drift: tuple[str, ...]
    """What has changed since the champion was trained: ``manifest``, ``data``, ``base``."""
    declared: bool
    """Whether the project still has a manifest for it."""

    def age_days(self, now: datetime) -> float | None:
        """Days since the champion was registered."""
        return None if self.champion is None else (now - self.champion.created).total_seconds() / 86_400


def fleet_status(
    registry: Registry, declared: Mapping[str, Mapping[str, str]], *, watch: bool = True
) -> list[TaskStatus]:
    """The status of every declared or registered task, sorted by name.

    ``declared`` maps a task to the tags that a version trained now would carry; those it leaves out
    are not compared. With ``watch`` a champion that was set by hand is written into its task's line
    of champions, so that a later rollback knows of it.
    """
    registered = registry.tasks()
    champions, challengers = registry.champions(), registry.challengers()
    if watch:
        for task in champions:
            observe(registry, task)
    return [
        TaskStatus(
            task=task,
            champion=champions.get(task),
            challenger=challengers.get(task),
            drift=_drift(champions.get(task), declared.get(task, {})),
            declared=task in declared,
        )
        for task in sorted({*declared, *registered} - {ROUTER})
    ]


def _drift(champion: VersionInfo | None, wanted: Mapping[str, str]) -> tuple[str, ...]:
    if champion is None:
        return ()
    return tuple(
        word for tag, word in DRIFT.items() if tag in wanted and champion.tags.get(tag) != wanted[tag]
    )
