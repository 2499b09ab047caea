"""One training as it is told (an assignment) and as it ended (an outcome), with its key.

An assignment carries all that a worker needs, so a worker needs no project folder. Its key is a hash
over manifest, rows and base: the same key is the same training, so an outcome that storage has under it
is taken as it is. Knows nothing of how an expert is trained, and imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from fleet.data.rows import TaskRows
from fleet.manifest import Manifest
from fleet.storage import Storage

RECIPE = 1
"""Part of every key: raise it when the same manifest, rows and base would give another expert."""
OUTCOME_FILE = "outcome.json"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One task to train, whole."""

    task: str
    manifest: dict[str, Any]
    rows: TaskRows
    key: str
    base_fingerprint: str
    """The base that the key is about; a worker that finds another one refuses."""


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """What came of an assignment; plain values, so that it travels and is stored as JSON."""

    task: str
    key: str
    artifact: str
    """Name of the artifact's folder in storage; empty after a failure."""
    digest: str
    error: str | None
    metrics: dict[str, float] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    table: list[dict[str, Any]] = field(default_factory=list)
    """One line per evaluation row: job, wanted, given, score, confidence."""
    tags: dict[str, str] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)
    baseline_scores: list[float] = field(default_factory=list)
    rows_digest: str = ""
    seconds: float = 0.0
    tokens: int = 0
    resumed: bool = False
    """Whether anything of it was there before this call."""


def assign(manifest: Manifest, rows: TaskRows, fingerprint: str) -> Assignment:
    """The assignment of one task over the base with this fingerprint."""
    parts = [str(RECIPE), manifest.task, manifest.digest, rows.digest, fingerprint]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Assignment(manifest.task, manifest.snapshot(), rows, key, fingerprint)


def stored_outcome(storage: Storage, assignment: Assignment) -> TaskOutcome | None:
    """The outcome of this very training if storage has it."""
    name = outcome_name(assignment.task, assignment.key)
    if not storage.exists(name):
        return None
    plain = json.loads(storage.read_text(name))
    plain["curves"] = {
        key: [(int(s), float(v)) for s, v in points] for key, points in plain["curves"].items()
    }
    return TaskOutcome(**{**plain, "resumed": True})


def outcome_name(task: str, key: str) -> str:
    """Where storage keeps an outcome; while it is there, the training counts as done."""
    return f"experts/{task}/{key}/{OUTCOME_FILE}"
