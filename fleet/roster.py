"""Who is champion and challenger at one moment, the router included. Knows nothing of what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fleet.registry.store import ROUTER, Registry
from fleet.registry.version import VersionInfo


@dataclass(frozen=True, slots=True)
class Roster:
    """The champions by task, the router beside them, and who would like to be champion."""

    champions: Mapping[str, VersionInfo]
    router: VersionInfo | None
    challengers: Mapping[str, VersionInfo] = field(default_factory=dict)
    """By task; only beside a champion, and never with the same content."""

    @classmethod
    def read(cls, registry: Registry) -> Roster:
        """As the aliases are now. Raises ``RegistryError``."""
        champions, challengers = registry.champions_and_challengers()
        router = champions.pop(ROUTER, None)
        rivals = {
            task: info
            for task, info in challengers.items()
            if task in champions and champions[task].key != info.key
        }
        return cls(champions, router, rivals)

    @property
    def name(self) -> str:
        """The same for two rosters exactly when they want the same versions."""
        parts = [self.champions.values(), [] if self.router is None else [self.router]]
        parts.append(self.challengers.values())
        known = [[(info.task, info.version, info.digest) for info in part] for part in parts]
        return hashlib.sha256(repr(known).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Keep it in a file, published by rename."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_bytes(_adapter().dump_json(self))
        fresh.replace(path)

    @classmethod
    def kept(cls, path: Path) -> Roster | None:
        """The one that was kept; None if there is none that can be read."""
        try:
            return _adapter().validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None


@cache
def _adapter() -> TypeAdapter[Roster]:
    return TypeAdapter(Roster)
