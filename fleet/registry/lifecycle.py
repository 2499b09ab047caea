"""How one champion follows another: settle a verdict, promote, roll back, and who did it when.

The alias in MLflow is the truth. The line of champions is a JSON tag of the registered model that
follows the alias: whoever looks (``observe``) adds a champion that was set by hand since. Two hand
promotions between two looks leave only the second in the line. Knows nothing of scores.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from fleet.errors import RegistryError
from fleet.registry.policy import Verdict
from fleet.registry.store import Registry
from fleet.registry.version import VersionInfo

LINE_TAG = "champions"
_TAG_LIMIT = 4_900  # MLflow's limit for a model's tag is 5,000 characters: some twenty entries
_REASON_LIMIT = 160

How = Literal["policy", "promote", "rollback", "observed"]


@dataclass(frozen=True, slots=True)
class Reign:
    """One entry of the line of champions."""

    version: int
    how: How
    """``observed``: the alias was set elsewhere, as in the UI, and ``at`` is when it was noticed."""
    by: str
    at: str
    """ISO 8601, UTC."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What a promotion or rollback did; ``before`` is None when there was no champion."""

    task: str
    before: int | None
    after: int

    @property
    def changed(self) -> bool:
        return self.before != self.after


def line_of_champions(registry: Registry, task: str) -> list[Reign]:
    """The line as last recorded, oldest first."""
    return _parse(registry.model_tags(task).get(LINE_TAG, ""))


def observe(registry: Registry, task: str) -> list[Reign]:
    """The line of champions up to this moment, with a champion set by hand written down."""
    line = line_of_champions(registry, task)
    live = registry.champion(task)
    if live is None or (line and line[-1].version == live.version):
        return line
    return _record(registry, task, line, Reign(live.version, "observed", "", _now()))


def past_champions(line: Sequence[Reign]) -> list[int]:
    """Versions that a rollback would return to, nearest last; the present champion is not among them.

    A rollback undoes the last change, so a second one goes further back instead of returning.
    """
    stack: list[int] = []
    for reign in line:
        if reign.how == "rollback" and reign.version in stack:
            while stack[-1] != reign.version:
                stack.pop()
        elif not stack or stack[-1] != reign.version:
            stack.append(reign.version)
    return stack[:-1]


def settle(
    registry: Registry, info: VersionInfo, verdict: Verdict, *, judged_against: int | None, by: str = ""
) -> Verdict:
    """Write ``verdict`` on a new version and give it its alias; returns the verdict that holds.

    ``judged_against`` is the champion's version that the verdict compared with (None: there was
    none). If a person has changed the champion meanwhile, the promotion is held.
    """
    live = registry.champion(info.task)
    now_champion = live.version if live else None
    if verdict.promote and now_champion not in (judged_against, info.version):
        why = f"the champion became version {now_champion} while this one was judged"
        verdict = Verdict(False, verdict.passed, (*verdict.reasons, why), verdict.figures)
    if verdict.promote:
        promote(registry, info.task, info.version, how="policy", by=by, reason="; ".join(verdict.reasons))
    elif now_champion != info.version:
        registry.set_alias(info.task, registry.challenger_alias, info.version)
    # The verdict's own tag comes last of all: it says that nothing is left to be done.
    tags = verdict.tags()
    word = {"verdict": tags.pop("verdict")}
    registry.set_tags(info, tags)
    registry.set_tags(info, word)
    return verdict


def promote(
    registry: Registry,
    task: str,
    version: int | None = None,
    *,
    by: str = "",
    reason: str = "",
    how: How = "promote",
) -> Change:
    """Make ``version`` (default: the challenger) the champion, with an audit trail."""
    if version is None:
        waiting = registry.challenger(task)
        if waiting is None:
            raise RegistryError(f"{task} has no challenger to promote; name a version, or train it first")
        target = waiting
    else:
        target = registry.version(task, version)
    line = observe(registry, task)
    return _enthrone(registry, target, line, how=how, by=by, reason=reason)


def rollback(registry: Registry, task: str, *, by: str = "", reason: str = "") -> Change:
    """Return to the champion before the present one, however that one came to be champion."""
    line = observe(registry, task)
    present = registry.champion(task)
    known = {info.version: info for info in registry.versions(task)}
    past = [version for version in past_champions(line) if version in known]
    if present is None:
        raise RegistryError(f"{task} has no champion to roll back from; fleet promote {task} sets one")
    if not past:
        raise RegistryError(
            f"{task} version {present.version} has no champion before it; "
            f"name one of its versions instead (fleet promote {task} VERSION)"
        )
    return _enthrone(registry, known[past[-1]], line, how="rollback", by=by, reason=reason)


def prune(registry: Registry, task: str, keep: int) -> list[VersionInfo]:
    """Delete versions beyond the newest ``keep``, sparing aliases and past champions; returns them."""
    line = observe(registry, task)
    spared = {*past_champions(line), *(reign.version for reign in line[-1:])}
    doomed = [
        info for info in registry.versions(task)[keep:] if not info.aliases and info.version not in spared
    ]
    for info in doomed:
        registry.delete_version(info)
    return doomed


def _enthrone(
    registry: Registry, target: VersionInfo, line: list[Reign], *, how: How, by: str, reason: str
) -> Change:
    task = target.task
    live = registry.champion(task)
    before = live.version if live else None
    if before == target.version:
        return Change(task, before, target.version)
    # The alias first: it is the truth, and a line left behind by a crash is caught up by observe.
    registry.set_alias(task, registry.champion_alias, target.version)
    reign = Reign(target.version, how, by or _user(), _now(), reason[:_REASON_LIMIT])
    _record(registry, task, line, reign)
    registry.set_tags(
        target,
        {
            "champion.how": reign.how,
            "champion.by": reign.by,
            "champion.at": reign.at,
            "champion.from": "" if before is None else str(before),
            "champion.reason": reason,
        },
    )
    waiting = registry.challenger(task)
    if waiting is not None and waiting.version == target.version:
        registry.delete_alias(task, registry.challenger_alias)
    return Change(task, before, target.version)


def _record(registry: Registry, task: str, line: list[Reign], reign: Reign) -> list[Reign]:
    longer = [*line, reign]
    while len(text := _text(longer)) > _TAG_LIMIT:
        longer = longer[1:]
    registry.set_model_tag(task, LINE_TAG, text)
    return longer


def _text(line: Sequence[Reign]) -> str:
    return json.dumps([asdict(entry) for entry in line], ensure_ascii=False, separators=(",", ":"))


def _parse(text: str) -> list[Reign]:
    """The recorded line; a tag that a person has broken counts as none."""
    try:
        entries: Any = json.loads(text or "[]")
        return [Reign(**entry) for entry in entries]
    except (ValueError, TypeError):
        return []


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"  # a container may have no name for its user
