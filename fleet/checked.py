"""What must hold before a version may answer or decide; and what one is for. Any thread may ask.

Whatever an artifact holds, what comes of it is a checked expert or router, or a ``FleetError`` that says why:
only its own jobs may suffer. Knows nothing of jobs, of banks, or of who became champion and why.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.base import Base
from fleet.engine.body import Body
from fleet.engine.expert import ExpertCard, check_fits, read_expert, self_check
from fleet.engine.specs import TaskSpec
from fleet.errors import ArtifactError, FleetError
from fleet.manifest import Manifest
from fleet.profile import Profile
from fleet.recipe import task_spec
from fleet.registry.store import Registry
from fleet.registry.version import VersionInfo
from fleet.routing.artifact import load_router
from fleet.routing.head import Router
from fleet.routing.language import identify

READY = "The first text whose language is asked for"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckedExpert:
    """An expert that may answer."""

    digest: str
    spec: TaskSpec
    card: ExpertCard
    adapter: Adapter | Body

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.adapter.tensors.values())


def check_expert(base: Base, registry: Registry, cache: Path, info: VersionInfo) -> CheckedExpert:
    """Fetch a version, and let it through if it is what was registered, for this base, and says what it said.

    Touches no bank but one of its own, so any thread may call it. Raises ``FleetError`` when the version
    must not answer.
    """
    with _contained():
        return _checked(base, registry, cache, info)


def _checked(base: Base, registry: Registry, cache: Path, info: VersionInfo) -> CheckedExpert:
    adapter, card = read_expert(registry.fetch(info, cache), digest=info.digest)
    if card.task != info.task:
        raise ArtifactError(f"{info.label} is an expert for {card.task}: promote another version")
    spec = task_spec(Manifest.model_validate(card.manifest))
    check_fits(base, spec, card)
    made = adapter.full if isinstance(adapter, Body) else adapter.lora
    if made != spec.adapter:
        # Its first layer decides from where on a job is computed with it.
        raise ArtifactError(f"{info.task}: the adapter is {made}, its manifest says {spec.adapter}")
    self_check(base, AdapterBank.alone(base.model, adapter), 0, spec, card)
    return CheckedExpert(info.digest, spec, card, adapter)


@dataclass(frozen=True, slots=True)
class LoadedRouter:
    """A router that may decide, and its version."""

    router: Router
    version: int


def check_router(base: Base, registry: Registry, cache: Path, info: VersionInfo) -> LoadedRouter:
    """Fetch a router, and let it through if it is what was registered, for this base.

    Raises ``FleetError`` when it must not decide.
    """
    with _contained():
        router = load_router(registry.fetch(info, cache), digest=info.digest)
        router.check_base(base.fingerprint)
        identify(READY)  # its model takes a second, which the first abstention would wait for
        return LoadedRouter(router, info.version)


class Profiles:
    """What versions are for, remembered: some hundred bytes each."""

    def __init__(self, registry: Registry, cache: Path) -> None:
        self._registry = registry
        self._cache = cache
        self._known: dict[tuple[str, str], Profile] = {}

    def of(self, info: VersionInfo) -> Profile | None:
        """None if it cannot be read."""
        if info.key not in self._known:
            try:
                self._known[info.key] = _read_profile(self._registry, self._cache, info)
            except FleetError as error:
                log.warning("what %s is for cannot be told: %s", info.label, error)
                return None
        return replace(self._known[info.key], version=info.version)


def _read_profile(registry: Registry, cache: Path, info: VersionInfo) -> Profile:
    """Whether it may answer or not. Raises ``FleetError``."""
    _, card = read_expert(registry.fetch(info, cache))
    try:
        return Profile.of(Manifest.model_validate(card.manifest), info.version, info.digest)
    except ValueError as error:
        raise ArtifactError(f"{info.label}: its manifest cannot be read: {error}") from error


@contextmanager
def _contained() -> Iterator[None]:
    try:
        yield
    except FleetError:
        raise
    except Exception as error:
        raise FleetError(f"{type(error).__name__}: {error}") from error
