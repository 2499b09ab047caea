"""Examples a second of ``train_cohort``: all tasks together against one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from benchmarks.bench import Report
from benchmarks.on_device.subject import Subject, random_tasks
from fleet.engine.train import TrainTask, train_cohort

TARGET = 6.0
"""A cohort of 32 should be so many times as fast as its tasks one at a time."""


def measure(subject: Subject, report: Report, time_left: Callable[[], float]) -> None:
    size = subject.size
    tasks = random_tasks(size, max(size.cohorts))
    few = replace(size, rows=max(1, size.rows // 4), epochs=1)
    train(subject, report, random_tasks(few, 1))  # warms up
    alone: list[float] = []
    for count in size.cohorts:
        if time_left() < 0:
            report.notes.append(f"not measured for want of time: {count} tasks")
            continue
        # Each task is trained alone once, whichever cohorts it belongs to.
        alone += [train(subject, report, [task]) for task in tasks[len(alone) : count]]
        train(subject, report, random_tasks(few, count))  # warms up
        together = train(subject, report, tasks[:count])
        examples = count * size.rows * size.epochs
        report.rows.append(
            {
                "tasks": count,
                "together ex/s": examples / together,
                "one at a time ex/s": examples / sum(alone[:count]),
                "ratio": sum(alone[:count]) / together,
            }
        )
        report.ratios[f"{count} tasks together"] = sum(alone[:count]) / together
        print(report.rows[-1], flush=True)
    report.notes.append(f"target: {TARGET:g} times at 32 tasks; labels only, validation free")


def train(subject: Subject, report: Report, tasks: Sequence[TrainTask]) -> float:
    """Seconds from the tasks to their adapters on the host."""
    started = time.perf_counter()
    results = train_cohort(subject.base, tasks, micro_tokens=subject.size.micro_tokens)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    report.failures += [f"{result.task}: {result.error}" for result in results if result.error]
    return seconds
