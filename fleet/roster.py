"""Who is champion at one moment, the router included. Knows nothing of what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleet.registry.store import ROUTER, Registry
from fleet.registry.version import VersionInfo


@dataclass(frozen=True, slots=True)
class Roster:
    """The champions by task, and the router beside them."""

    champions: Mapping[str, VersionInfo]
    router: VersionInfo | None

    @classmethod
    def read(cls, registry: Registry) -> Roster:
        """As the aliases are now. Raises ``RegistryError``."""
        champions = registry.champions()
        router = champions.pop(ROUTER, None)
        return cls(champions, router)
