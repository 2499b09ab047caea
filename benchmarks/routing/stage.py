"""What every part of ``route_public`` stands on: the base, the router's ground, rows of the public data.

Knows nothing of what is measured. Rows are read as they were published; nothing is written beside them.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.engine.base import Base
from fleet.routing.evidence import Evidence
from fleet.routing.fit import gather
from fleet.routing.head import Ground
from fleet.routing.reading import Readings, read_texts
from fleet.routing.task import RouterTask

Row = tuple[str, str]
"""Text and task."""

READ = 20
"""Texts that a smoke run reads at most, of each sort."""


@dataclass(frozen=True, slots=True)
class Stage:
    base: Base
    ground: Ground
    data: Path
    cut: int | None
    """Tasks, and rows of each, for a smoke run."""
    peer: Path | None
    """A Python that has ``semantic-router``."""
    started: float

    def say(self, words: str) -> None:
        """A line of progress."""
        print(f"[{time.perf_counter() - self.started:.0f} s] {words}", flush=True)

    def rows(self, path: str, column: str = "label") -> list[Row]:
        """All rows of a file, with what the column says as a string."""
        with (self.data / path).open(encoding="utf-8") as lines:
            return [(row["text"], str(row[column])) for row in map(json.loads, lines)]

    def fewer(self, rows: Sequence[Row]) -> list[Row]:
        """All rows, or for a smoke run a few of a few tasks."""
        kept: dict[str, list[Row]] = {}
        for row in rows:
            kept.setdefault(row[1], []).append(row)
        return [row for name in sorted(kept)[: self.cut] for row in kept[name][: self.cut]]

    def texts(self, path: str) -> list[str]:
        found = [text for text, _ in self.rows(path)]
        return found if self.cut is None else found[:READ]

    def evidence(
        self, rows: Sequence[Row], examples: Mapping[str, Sequence[str]] | None = None
    ) -> dict[str, Evidence]:
        """Of every task, read by the trunk: its rows, its examples, its changed rows."""
        by_task: dict[str, list[str]] = {}
        for text, task in rows:
            by_task.setdefault(task, []).append(text)
        found: dict[str, Evidence] = {}
        for task, texts in sorted(by_task.items()):
            if not len(found) % max(1, len(by_task) // 10):
                self.say(f"reading the rows of {task}, task {len(found) + 1} of {len(by_task)}")
            known = RouterTask(task, texts, (examples or {}).get(task, ()), "", [""] * len(texts))
            found[task] = gather(self.base, self.ground, known)
        return found

    def read(self, texts: Sequence[str], what: str) -> Readings:
        self.say(f"reading {len(texts)} {what}")
        return read_texts(self.base, texts, self.ground.taps)


def draw(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    """So many of the rows, or all."""
    return random.Random(seed).sample(rows, min(most, len(rows)))


def columns(rows: Sequence[Row]) -> tuple[list[str], list[Any]]:
    """Texts and tasks apart."""
    return [text for text, _ in rows], [task for _, task in rows]
