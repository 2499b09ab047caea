"""What is trained: rows of the starter tasks, and a contender's answer to it. Knows nothing of trainers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fleet.data.rows import load_task_rows
from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.base import Base
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.evaluate import answer_examples, measure
from fleet.engine.prompt import Renderer, TokenRow
from fleet.engine.specs import Example, LoraSpec, TaskSpec
from fleet.project import Project
from fleet.recipe import examples, task_spec

ROOT = Path(__file__).parents[2]
LORA = LoraSpec(rank=16, layers=(6, 18))
TINY_LORA = LoraSpec(rank=4, layers=(2, 6))
"""For the tiny base of a smoke run."""


@dataclass(frozen=True, slots=True)
class Course:
    """One training: the first rows of each task, so many epochs; plain values, to travel as JSON."""

    tasks: tuple[str, ...]
    """Names; ``sentiment/2`` is the second such share of sentiment's rows."""
    rows: int
    """Rows of each."""
    epochs: int
    steps: int = 0
    """Optimiser steps, for a trainer that is told; 0 lets the recipe's ``batch_tokens`` decide."""
    batch_rows: int = 0
    """Rows of one optimiser step, likewise."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Course:
        return cls(**{**plain, "tasks": tuple(plain["tasks"])})


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training took."""

    seconds: float
    """From the rows as text to the last step, without loading the base; a peer's own preparation excluded."""
    first_epoch: float
    """Seconds of the first epoch, and of what comes before it."""
    steps: int
    examples: int
    tokens: int
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Lesson:
    """One task of a course, read."""

    spec: TaskSpec
    train: list[Example]
    held_out: list[Example]


class Trainer(Protocol):
    """A contender."""

    def train(self, course: Course) -> Trained:
        """Train anew, from fresh adapters."""
        ...

    def adapter(self) -> Adapter:
        """What the last training of one task made."""
        ...


def read_lesson(name: str, rows: int, epochs: int, lora: LoraSpec) -> Lesson:
    """A starter task with its recipe but for epochs and adapter. Raises ``ValueError`` for too few rows."""
    project = Project.find(ROOT)
    task, _, share = name.partition("/")
    manifest = project.task(task)
    found = load_task_rows(project.root, manifest)
    start = (int(share or 1) - 1) * rows
    train = examples(found.train)[start : start + rows]
    if len(train) < rows:
        raise ValueError(f"{name} has {len(train)} rows, {rows} are wanted")
    spec = task_spec(manifest)
    recipe = replace(spec.train, epochs=epochs, patience=epochs)
    spec = replace(spec, name=name.replace("/", "-"), adapter=lora, train=recipe)
    return Lesson(spec, train, examples(found.eval))


def token_rows(base: Base, lesson: Lesson) -> list[TokenRow]:
    """The rows as every contender trains on them: same ids, same supervised positions."""
    renderer = Renderer.of(base.tokenizer)
    return [renderer.row(lesson.spec, example) for example in lesson.train]


def score(base: Base, adapter: Adapter, lesson: Lesson, rows: int) -> float:
    """The task's own metric on its first evaluation rows, by our decoder whoever trained the adapter."""
    held_out: Sequence[Example] = lesson.held_out[:rows]
    bank = AdapterBank.alone(base.model, adapter)
    given = answer_examples(base, bank, 0, lesson.spec, held_out, ConstraintCompiler(base.tokenizer))
    return measure(lesson.spec.metric, [row.output for row in held_out], [c.value for c in given]).value
