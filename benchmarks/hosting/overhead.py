"""What HTTP and Serve cost over the bare engine: jobs a second at saturation, milliseconds at idle."""

from __future__ import annotations

import statistics

from benchmarks.bench import Report
from benchmarks.hosting.load import Answered, closed_loop
from benchmarks.hosting.stage import Stage, host_job

MOST_LOST = 0.25
MOST_ADDED_MS = 15.0
CHUNK = 10


def measure(stage: Stage, report: Report) -> None:
    saturation(stage, report)
    idle(stage, report)


def saturation(stage: Stage, report: Report) -> None:
    """Windows in turn; the service is sent batches, and more of them than it answers at a time."""
    size, bare = stage.setup.size, stage.bare
    assert bare is not None
    speeds: dict[str, list[float]] = {"bare engine": [], "service, batches": [], "service, single jobs": []}
    for _ in range(size.windows):
        jobs = [host_job(job) for job in stage.jobs(size.most_jobs)]
        speeds["bare engine"].append(bare.speed(jobs, size.window))
        speeds["service, batches"].append(stage.saturate(stage.ours, size.batch, size.window).speed)
        speeds["service, single jobs"].append(stage.saturate(stage.ours, 1, size.window).speed)
        print("  " + ", ".join(f"{name} {runs[-1]:.2f} jobs/s" for name, runs in speeds.items()), flush=True)
    middle = {name: statistics.median(runs) for name, runs in speeds.items()}
    for name, speed in middle.items():
        report.rows.append(_row(f"saturation: {name}", speed=speed))
    for name in list(speeds)[1:]:
        report.ratios[f"share of the engine's jobs/s lost, {name}"] = 1 - middle[name] / middle["bare engine"]
    report.aim("share of the engine's jobs/s lost, service, batches", at_most=MOST_LOST)


def idle(stage: Stage, report: Report) -> None:
    """One client, one job at a time; the same jobs to the bare engine, in turn."""
    size, bare = stage.setup.size, stage.bare
    assert bare is not None
    jobs = stage.jobs(size.idle_jobs)
    alone: list[float] = []
    served: list[Answered] = []
    for start in range(0, len(jobs), CHUNK):
        chunk = jobs[start : start + CHUNK]
        alone += [1000 * seconds for seconds in bare.each([host_job(job) for job in chunk])]
        served += closed_loop(stage.address, stage.ours, chunk, 60.0, clients=1).answers
    within = [sum(a.said.milliseconds.values()) for a in served if a.said is not None]
    outside = [1000 * a.latency - sum(a.said.milliseconds.values()) for a in served if a.said is not None]
    latencies = [1000 * answer.latency for answer in served]
    added = [http - engine for http, engine in zip(latencies, alone, strict=True)]
    report.rows.append(_row("idle: bare engine", milliseconds=alone))
    report.rows.append(_row("idle: service", milliseconds=latencies))
    report.rows.append(_row("idle: of it within the host, as receipts say", milliseconds=within))
    report.rows.append(_row("idle: of it on the way there and back", milliseconds=outside))
    report.rows.append(_row("idle: added, job by job", milliseconds=added))
    report.ratios["ms added at idle"] = statistics.median(added)
    report.aim("ms added at idle", at_most=MOST_ADDED_MS)


def _row(what: str, *, speed: float | None = None, milliseconds: list[float] | None = None) -> dict:
    ordered = sorted(milliseconds or [])
    return {
        "what": what,
        "jobs/s": speed,
        "ms, median": statistics.median(ordered) if ordered else None,
        "ms, 95 of 100": ordered[int(0.95 * (len(ordered) - 1))] if ordered else None,
    }
