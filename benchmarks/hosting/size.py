"""How much is measured: a quarter of an hour on two cores, or as little as shows that it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.training.course import LORA, TINY_LORA
from fleet.engine.specs import LoraSpec


@dataclass(frozen=True, slots=True)
class Size:
    experts: int = 16
    kinds: int = 16
    """Distinct adapters."""
    lora: LoraSpec = field(default_factory=lambda: LORA)
    replicas: int = 2
    threads: int = 1
    rivals: int | None = None
    """Processes of the peer and of the bare engine; as many as the service's if not given."""
    clients: int = 32
    """Jobs that are under way in a closed loop."""
    batch: int = 32
    """Jobs of a request at saturation,"""
    small_batch: int = 4
    """and where they are to be answered within a second."""
    window: float = 6.0
    """Seconds in which a closed loop sends jobs."""
    windows: int = 3
    trial: float = 10.0
    """Seconds of one rate."""
    trials: int = 5
    most_jobs: int = 1024
    """Of one closed loop."""
    idle_jobs: int = 60
    changes: int = 20
    gap: float = 2.5
    """Seconds between two changes, and up to one more."""
    probes: float = 20.0
    """A second, while versions change."""
    crowd: int = 100
    """Experts of which a replica's memory is taken."""
    bulk_rows: tuple[int, ...] = (300,)
    """Of each file of jobs."""
    chaos: float = 30.0
    """Seconds of load around a kill."""


SMOKE = Size(
    experts=3,
    kinds=2,
    rivals=1,
    lora=TINY_LORA,
    clients=4,
    batch=4,
    small_batch=2,
    window=0.5,
    windows=1,
    trial=0.5,
    trials=2,
    most_jobs=64,
    idle_jobs=4,
    changes=2,
    gap=2.0,
    probes=10.0,
    crowd=5,
    bulk_rows=(48,),
    chaos=6.0,
)
