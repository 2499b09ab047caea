"""One run: train a configuration, answer the validation rows, and the test rows when asked.

A run's result is one JSON file, written last; a run that has its file is not run again, and one that was
killed goes on from its checkpoint. Its adapter is kept beside the base's cache, so that test rows can
be answered later. Training, answers and measures are the engine's. Knows nothing of tables or sweeps.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench import machine
from benchmarks.judging import datasets
from benchmarks.judging.configuration import TRAINED, Configuration
from benchmarks.judging.datasets import Rows
from fleet.baseline import tfidf_answers
from fleet.engine.adapters import Adapter, AdapterBank, load_adapter, save_adapter
from fleet.engine.base import Base, load_base
from fleet.engine.base_folder import fingerprint
from fleet.engine.body import Body, is_body, load_body, save_body
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.evaluate import Measured, answer_examples, row_losses
from fleet.engine.specs import Example, TaskSpec
from fleet.engine.train import Progress, TrainTask, Validation, train_cohort
from fleet.errors import TrainingError

WATCHED = 200
"""Validation rows answered after every epoch, drawn by seed; all are answered at the end."""
SAY_EVERY = 20.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Score:
    """A measure over rows with its 95 % interval; ``loss`` is in nats per token of the wanted answers."""

    value: float
    low: float
    high: float
    seconds: float
    loss: float | None
    rows: list[float]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one run; plain values, as they are in its file."""

    key: str
    configuration: dict[str, Any]
    train_rows: int
    available_rows: int
    watched_rows: int
    reduced: str
    """What was cut before it started so that it fits the time given; empty for nothing."""
    validation: Score
    test: Score | None
    seconds: float
    """Of training, validation after each epoch included."""
    tokens: int
    steps: int
    curve: list[tuple[int, float]]
    """Validation measure of the watched rows after each epoch, by optimiser step."""
    loss: list[tuple[int, float]]
    """Mean training loss of each twentieth of the steps."""
    threads: int
    machine: dict[str, str]
    when: str

    @classmethod
    def read(cls, file: Path) -> Result:
        plain = json.loads(file.read_text())
        plain["validation"] = Score(**plain["validation"])
        plain["test"] = Score(**plain["test"]) if plain["test"] else None
        return cls(**plain)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{self.key}.{os.getpid()}"
        partial.write_text(json.dumps(asdict(self), ensure_ascii=False) + "\n")
        partial.rename(folder / f"{self.key}.json")


@dataclass(slots=True)
class Workplace:
    """Where data, results, adapters and the base are; the base is loaded when it is first needed."""

    data: Path
    results: Path
    scratch: Path
    base_folder: Path
    base_name: str
    say: Callable[[str], None] = print
    _loaded: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Base:
        if "base" not in self._loaded:
            self._loaded["base"] = load_base(self.base_folder)
        found: Base = self._loaded["base"]
        return found

    @property
    def compiler(self) -> ConstraintCompiler:
        if "compiler" not in self._loaded:
            self._loaded["compiler"] = ConstraintCompiler(self.base.tokenizer)
        found: ConstraintCompiler = self._loaded["compiler"]
        return found

    def rows(self, task: str) -> Rows:
        if task not in self._loaded:
            self._loaded[task] = datasets.load(datasets.DATA_SETS[task], self.data)
        found: Rows = self._loaded[task]
        return found

    def key(self, configuration: Configuration) -> str:
        return configuration.key(
            datasets.digest(configuration.dataset, self.data), fingerprint(self.base_folder)
        )

    def result(self, configuration: Configuration) -> Result | None:
        """The result of this very run if there is one."""
        file = self.results / f"{self.key(configuration)}.json"
        return Result.read(file) if file.exists() else None


def run(configuration: Configuration, place: Workplace, *, test: bool = False, reduced: str = "") -> Result:
    """The result of a configuration, made now or found. Raises ``TrainingError`` if the training fails."""
    found = place.result(configuration)
    if found is not None and (found.test is not None or not test):
        place.say(f"{found.key}: found {place.results.name}/{found.key}.json")
        return found
    made = _Run(configuration, place)
    result = made.test(found) if found is not None and made.can_answer else made.whole(test, reduced)
    result.write(place.results)
    made.clean()
    place.say(f"{result.key}: {_line(configuration, result)}")
    return result


def training_rows(configuration: Configuration, rows: Rows) -> list[Example]:
    """The rows that a configuration trains on, in their order."""
    if configuration.rows == "full":
        return rows.train
    return datasets.draw(rows.train, int(configuration.rows), configuration.train.seed)


class _Run:
    def __init__(self, configuration: Configuration, place: Workplace) -> None:
        self.configuration = configuration
        self.place = place
        self.key = place.key(configuration)
        self.rows = place.rows(configuration.task)
        self.train = training_rows(configuration, self.rows)
        few = len(self.train) <= datasets.FEW
        # Who has few rows to train on has no more to validate on.
        count = len(self.train) if few else WATCHED
        self.watched = datasets.draw(self.rows.validation, count, 0)
        self.home = place.scratch / self.key

    @cached_property
    def spec(self) -> TaskSpec:
        return self.configuration.task_spec(self.rows)

    @property
    def can_answer(self) -> bool:
        """Whether there is what answers without training again."""
        return self.configuration.method not in TRAINED or (self.home / "adapter").is_dir()

    def whole(self, test: bool, reduced: str) -> Result:
        started = time.monotonic()
        seconds, tokens, steps = 0.0, 0, 0
        curves: Mapping[str, Sequence[tuple[int, float]]] = {}
        if self.configuration.method in TRAINED:
            seconds, tokens, steps, curves = self._train()
        validation = self._score(self.rows.validation, "validation")
        return Result(
            key=self.key,
            configuration=self.configuration.plain(),
            train_rows=0 if self.configuration.method == "zero_shot" else len(self.train),
            available_rows=len(self.rows.train),
            watched_rows=len(self.watched),
            reduced=reduced,
            validation=validation,
            test=self._score(self.rows.test, "test") if test else None,
            seconds=seconds or time.monotonic() - started,
            tokens=tokens,
            steps=steps,
            curve=list(curves.get("validation_metric", ())),
            loss=_thinned(curves.get("loss", ())),
            threads=torch.get_num_threads(),
            machine=machine(),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def test(self, found: Result) -> Result:
        return replace(found, test=self._score(self.rows.test, "test"))

    def clean(self) -> None:
        """What only a killed run needs."""
        shutil.rmtree(self.home / "checkpoint", ignore_errors=True)

    def _train(self) -> tuple[float, int, int, Mapping[str, Sequence[tuple[int, float]]]]:
        tail = self.key.rpartition("-")[2]
        [result] = train_cohort(
            self.place.base,
            [TrainTask(self.spec, self.train, self._validate, key=tail)],
            checkpoint=self.home / "checkpoint",
            on_progress=_Lines(self.place.say),
        )
        if result.adapter is None:
            raise TrainingError(f"{self.key}: {result.error or 'the training gave no adapter'}")
        partial = self.home / f".adapter.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if isinstance(result.adapter, Body):
            save_body(partial, result.adapter, self.place.base_name)
        else:
            save_adapter(partial, result.adapter, self.place.base_name)
        shutil.rmtree(self.home / "adapter", ignore_errors=True)
        partial.rename(self.home / "adapter")
        return result.seconds, result.tokens, result.steps, result.curves

    def _validate(self, bank: AdapterBank, slot: int) -> Validation:
        losses, counts = row_losses(self.place.base, bank, slot, self.spec, self.watched)
        measured = self._measured(self.watched, bank, slot)
        return Validation(measured.value, float(losses.sum() / counts.sum()))

    def _measured(self, examples: Sequence[Example], bank: AdapterBank | None, slot: int) -> Measured:
        given = answer_examples(self.place.base, bank, slot, self.spec, examples, self.place.compiler)
        return self.configuration.dataset.score(
            [example.output for example in examples], [completion.value for completion in given]
        )

    def _score(self, examples: Sequence[Example], what: str) -> Score:
        self.place.say(f"{self.key}: answering {len(examples)} {what} rows")
        started = time.monotonic()
        loss = None
        if self.configuration.method == "tfidf":
            texts = [[example.fields["text"] for example in part] for part in (self.train, examples)]
            answers = tfidf_answers(texts[0], [example.output for example in self.train], texts[1])
            measured = self.configuration.dataset.score([example.output for example in examples], answers)
        else:
            bank, slot = self._bank()
            measured = self._measured(examples, bank, slot)
            if what == "validation":
                losses, counts = row_losses(self.place.base, bank, slot, self.spec, examples)
                loss = float(losses.sum() / counts.sum())
        return Score(
            value=measured.value,
            low=measured.low,
            high=measured.high,
            seconds=time.monotonic() - started,
            loss=loss,
            rows=[round(score, 4) for score in measured.rows],
        )

    def _bank(self) -> tuple[AdapterBank | None, int]:
        """What serves: matrices rounded to the file's dtype; nothing for the bare base."""
        if self.configuration.method not in TRAINED:
            return None, -1
        folder = self.home / "adapter"
        adapter: Adapter | Body = load_body(folder) if is_body(folder) else load_adapter(folder)
        return AdapterBank.alone(self.place.base.model, adapter), 0


class _Lines:
    """Progress as plain lines, one every ``SAY_EVERY`` seconds and at each change of state."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = (-math.inf, "")

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.state == self._last[1] and now - self._last[0] < SAY_EVERY:
            return
        self._last = (now, progress.state)
        self._say(
            f"{progress.task}: {progress.state}, step {progress.step}/{progress.steps}, epoch "
            f"{progress.epoch + 1}, loss {progress.loss:.3f}, validation {progress.metric:.3f}, "
            f"{progress.tokens_per_second:.0f} tokens/s, {progress.seconds_left / 60:.1f} min left to train"
        )


def _thinned(curve: Sequence[tuple[int, float]], points: int = 20) -> list[tuple[int, float]]:
    size = max(1, math.ceil(len(curve) / points))
    parts = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(part[-1][0], round(sum(loss for _, loss in part) / len(part), 4)) for part in parts]


def _line(configuration: Configuration, result: Result) -> str:
    metric = configuration.dataset.metric
    shown = [
        f"{what} {metric} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
        for what, score in (("validation", result.validation), ("test", result.test))
        if score is not None
    ]
    return f"{'; '.join(shown)}; {result.train_rows} rows, {result.seconds / 60:.1f} min"
