"""``fleet.yaml`` as pydantic models that check themselves: what all tasks of a project share.

Knows no task, and not whether what it names (folders, addresses, a base) is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from fleet.declared import Declared, Section, load_declared
from fleet.manifest import TASK_NAME, Text

__all__ = ["BUILT_IN_BASES", "FleetConfig", "load_config"]

BUILT_IN_BASES = ("gemma-3-270m",)
"""Names of ``fleet.engine.base.BUILT_IN``, which only a process that loads torch can ask."""


class TrainingDefaults(Section):
    """How training uses the machines."""

    workers: int | None = Field(default=None, ge=1, le=1024)
    """Trainings that run at once; planned from the resources if not given."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads of one worker, a core each; 2, where there are so many, if not given."""
    checkpoint_seconds: int = Field(default=60, ge=1)
    """Most seconds of work that a killed training loses."""
    max_retries: int = Field(default=3, ge=0, le=100)
    """How often a training that lost its worker is taken up again."""


class RoutingDefaults(Section):
    """How sure the router must be."""

    max_misroute: float = Field(default=0.05, gt=0, lt=1)
    """Greatest share of routed jobs that may go to a wrong task; a task may be stricter."""
    out_of_scope: float = Field(default=0.05, ge=0, lt=1)
    """Share of jobs that fit no task, as you expect: the more, the surer the router must be."""
    out_of_scope_jobs: Text | None = None
    """A file of jobs that fit no task, a JSON object a line as for fleet route --file: the router learns
    them as what it must not route. From 50 jobs on they count as a kind of their own when thresholds are
    set; fewer count with the texts in general that come with taskfleet."""


class FleetConfig(Declared):
    """``fleet.yaml``: what all tasks of a project share."""

    stand_ins: ClassVar[Mapping[str, Any]] = {"name": "stand-in"}

    name: str = Field(pattern=TASK_NAME)
    """Name of the fleet."""
    base: Text = "gemma-3-270m"
    """The base model: the built-in name, a hub id, or a folder."""
    trunk_layers: int = Field(default=6, ge=1, le=256)
    """Layers that all experts share unchanged, computed once per job; the router reads them."""
    storage: Text = ".fleet/storage"
    """Where checkpoints go: a folder, or an fsspec address that all nodes reach."""
    tracking_uri: str = ""
    """MLflow's tracking URI; empty is a database and artifacts under .fleet/."""
    tasks: Text = "tasks"
    """Folder of the tasks."""
    policy: Text = "registry/policy.yaml"
    """The file that says when a version is promoted."""
    telemetry: bool = False
    """Whether Ray and MLflow may send usage reports to their makers."""
    routing: RoutingDefaults = RoutingDefaults()
    """How sure the router must be."""
    training: TrainingDefaults = TrainingDefaults()
    """How training uses the machines."""


def load_config(path: Path) -> FleetConfig:
    """Read ``fleet.yaml``. Raises ManifestError with every fault and its line."""
    return load_declared(path, path.name, FleetConfig)
