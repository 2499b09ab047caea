"""Rules between tasks: rows that flatter the router. Knows nothing of the router itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fleet.data.duplicates import normal
from fleet.data.rows import Row, TaskRows
from fleet.errors import Fault
from fleet.manifest import Manifest

__all__ = ["shared_row_faults"]

Fleet = Mapping[str, tuple[Manifest, TaskRows]]


def shared_row_faults(fleet: Fleet) -> Iterator[Fault]:
    """Evaluation rows of one task that are training rows of another, exactly."""
    trained: dict[str, list[tuple[str, Row]]] = {}
    for name, (_, rows) in fleet.items():
        for row in rows.train:
            trained.setdefault(normal(row), []).append((name, row))
    for name, (_, rows) in fleet.items():
        for row in rows.eval:
            for other, twin in trained.get(normal(row), []):
                if other == name:
                    continue
                message = (
                    f"is also a training row of {other} ({twin.place}), which flatters the router: drop one"
                )
                yield Fault("eval-row-in-other-train", message, row.file, row.line, severity="warning")
