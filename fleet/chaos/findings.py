"""What a drill finds, and the jobs that come while it does. Knows no drill."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import httpx

from fleet.chaos.ground import Ground
from fleet.chaos.load import Load, LoadFigures

CLIENTS = 4
STEADY = 40
"""Jobs before and after a fault, so that there is something to compare with."""
NOTES = Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True)
class DrillFigures:
    """What came of a drill."""

    drill: str
    seconds: float
    load: LoadFigures
    notes: NOTES
    """What else there is to know, by name; durations in seconds."""
    failures: tuple[str, ...]
    """None, if everything has held."""


@dataclass(slots=True)
class Findings:
    """What a drill has found itself, beside its load's figures."""

    notes: dict[str, float | int | str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    load: LoadFigures | None = None

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.failures.append(otherwise)


Drill = Callable[[Ground, float, Findings], None]
"""Told for how long aliases are flipped; writes down what it finds as it goes."""


@contextlib.contextmanager
def under_load(ground: Ground, found: Findings, clients: int = CLIENTS) -> Iterator[Load]:
    """Jobs come before, during and after the block."""
    load = ground.load()
    try:
        with load.running(ground.jobs, clients):
            ground.until(lambda: load.jobs >= STEADY, "forty jobs have ended")
            yield load
            so_far = load.jobs
            ground.until(lambda: load.jobs >= so_far + STEADY, "another forty jobs have ended")
    finally:
        found.load = load.figures()


def ready(ground: Ground) -> bool:
    try:
        return ground.client.get("/readyz", timeout=5.0).status_code == 200
    except httpx.HTTPError:
        return False
