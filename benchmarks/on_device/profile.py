"""Where the time goes: torch's profiler over the slowest parts, the heaviest operators of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.bench import Report
from benchmarks.on_device import serving, training
from benchmarks.on_device.subject import Subject, random_jobs, random_tasks

SHOWN = 15


def measure(
    subject: Subject, report: Report, time_left: Callable[[], float], served: Sequence[dict[str, Any]]
) -> None:
    """The slowest row of ``served`` for each kind of answer, and the largest cohort; each after a warm-up."""
    size = subject.size
    parts: list[tuple[str, Callable[[], object]]] = []
    for kind in dict.fromkeys(row["answer"] for row in served):
        slowest = min((row for row in served if row["answer"] == kind), key=lambda row: row["jobs/s"])
        jobs = random_jobs(size, slowest["max_rows"], slowest["experts"])
        tokens = 0 if kind == serving.name(0) else size.profiled_text_tokens
        parts.append(
            (
                f"{serving.name(tokens)}, {slowest['max_rows']} rows, {slowest['experts']} experts",
                lambda jobs=jobs, tokens=tokens: serving.answer(subject, jobs, len(jobs), tokens),
            )
        )
    few = replace(size, rows=max(1, size.rows // 4), epochs=1)
    tasks = random_tasks(few, max(size.cohorts))
    parts.append((f"training, {len(tasks)} tasks", lambda: training.train(subject, report, tasks)))
    for name, call in parts:
        if time_left() < 0:
            report.notes.append(f"not profiled for want of time: {name}")
            continue
        call()
        report.rows += _heaviest(name, call)


def _heaviest(part: str, call: Callable[[], object]) -> list[dict[str, Any]]:
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        call()
    events = profiler.key_averages()
    rows: list[dict[str, Any]] = []
    for by in ("self_device_time_total", "self_cpu_time_total")[0 if on_gpu else 1 :]:
        rows += [
            {
                "part": part,
                "by": "device" if by == "self_device_time_total" else "host",
                "operator": event.key[:60],
                "calls": event.count,
                "device ms": event.self_device_time_total / 1000,
                "host ms": event.self_cpu_time_total / 1000,
            }
            for event in sorted(events, key=lambda event: -getattr(event, by))[:SHOWN]
        ]
    return rows
