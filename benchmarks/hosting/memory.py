"""What a replica weighs with few experts and with many: proportional and private memory of its process."""

from __future__ import annotations

import time

from benchmarks.bench import Report
from benchmarks.hosting.stage import Stage, processes
from benchmarks.hosting.stock import register_all, task_name


def measure(stage: Stage, report: Report) -> None:
    size = stage.setup.size
    _weigh(stage, report, size.experts)
    began = time.monotonic()
    register_all(stage.stock, range(size.experts, size.crowd))
    registered = time.monotonic()
    stage.wait_until_ready([task_name(expert) for expert in range(size.crowd)])
    fresh = size.crowd - size.experts
    report.notes.append(
        f"{fresh} experts registered in {registered - began:.1f} s while replicas took them in; the last was "
        f"ready on every replica {time.monotonic() - registered:.1f} s later"
    )
    _weigh(stage, report, size.crowd)
    few, many = (
        max(row["PSS MiB"] for row in report.rows if row["process"] == "host" and row["experts"] == experts)
        for experts in (size.experts, size.crowd)
    )
    report.ratios["MiB of a replica for an expert more"] = (many - few) / fresh


def _weigh(stage: Stage, report: Report, experts: int) -> None:
    for what in ("host", "ingress", "watcher", "controller"):
        for process in processes(what):
            memory = process.memory_full_info()
            report.rows.append(
                {
                    "process": what,
                    "experts": experts,
                    "PSS MiB": round(memory.pss / 2**20),
                    "private MiB": round(memory.uss / 2**20),
                    "resident MiB": round(memory.rss / 2**20),
                }
            )
