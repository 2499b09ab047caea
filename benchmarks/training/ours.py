"""``train_cohort`` as a contender: all tasks in one cohort, or each alone, one after the other."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.bench import forget_peak, peak_resident_mib
from benchmarks.training.course import Course, Trained, read_lesson
from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.base import load_base
from fleet.engine.specs import LoraSpec
from fleet.engine.train import TrainResult, TrainTask, Validation, train_cohort


class Ours:
    def __init__(self, folder: Path, lora: LoraSpec, *, together: bool) -> None:
        self._base = load_base(folder)
        self._lora = lora
        self._together = together
        self._last: list[TrainResult] = []

    def train(self, course: Course) -> Trained:
        """Timed whole: rendering, the trunk pass and the optimiser included."""
        forget_peak()
        lessons = [read_lesson(name, course.rows, course.epochs, self._lora) for name in course.tasks]
        ended: list[float] = []

        def validate(bank: AdapterBank, slot: int) -> Validation:
            ended.append(time.perf_counter())
            return Validation(float(len(ended)), 0.0)  # the last epoch is the best: it is kept

        tasks = [TrainTask(lesson.spec, lesson.train, validate) for lesson in lessons]
        cohorts = [tasks] if self._together else [[task] for task in tasks]
        started = time.perf_counter()
        self._last = [result for cohort in cohorts for result in train_cohort(self._base, cohort)]
        seconds = time.perf_counter() - started
        for result in self._last:
            if result.error:
                raise RuntimeError(f"{result.task}: {result.error}")
        return Trained(
            seconds=seconds,
            first_epoch=ended[0] - started,
            steps=sum(result.steps for result in self._last),
            examples=sum(len(lesson.train) for lesson in lessons) * course.epochs,
            tokens=sum(result.tokens for result in self._last),
            peak_mib=peak_resident_mib(),
        )

    def adapter(self) -> Adapter:
        (result,) = self._last
        assert isinstance(result.adapter, Adapter)
        return result.adapter
