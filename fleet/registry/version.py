"""One version as the registry knew it, read from what MLflow has of it. Knows neither MLflow nor stores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Kind = Literal["expert", "router"]


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version as the registry knew it when asked."""

    task: str
    version: int
    digest: str
    run_id: str
    created: datetime
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    metrics: Mapping[str, float]
    size: int
    """Bytes of the artifact."""
    kind: Kind = "expert"

    @property
    def label(self) -> str:
        return f"{self.task} version {self.version}"

    @property
    def key(self) -> tuple[str, str]:
        """What it is known by where it is served: its task and its content, without a digest its number.

        The task belongs to it: a copy under another task's name is not that task's expert.
        """
        return self.task, self.digest or str(self.version)


def version_info(entry: Any, aliases: Sequence[str]) -> VersionInfo:
    """``entry`` is MLflow's ``ModelVersion``; one that was made by hand may lack every tag of ours."""
    tags = dict(entry.tags or {})
    size = tags.get("size", "")
    return VersionInfo(
        task=entry.name,
        version=int(entry.version),
        digest=tags.get("digest", ""),
        run_id=entry.run_id or "",
        created=datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC),
        tags=tags,
        aliases=tuple(sorted(aliases)),
        metrics=_metrics(tags.get("metrics", "")),
        size=int(size) if size.isdecimal() else 0,
        kind="router" if tags.get("kind") == "router" else "expert",
    )


def _metrics(text: str) -> dict[str, float]:
    try:
        loaded = json.loads(text)
    except ValueError:
        return {}  # a version made by hand, or figures too many for one tag: the run has them all
    if not isinstance(loaded, dict):
        return {}
    return {str(key): float(value) for key, value in loaded.items() if isinstance(value, int | float)}
