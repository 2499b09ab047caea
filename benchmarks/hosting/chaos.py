"""One of the replicas killed under load: what was lost, what it cost, how long until it was whole again."""

from __future__ import annotations

import time

from benchmarks.bench import Report
from benchmarks.hosting.load import open_loop
from benchmarks.hosting.stage import Stage, processes, until
from benchmarks.hosting.stock import task_name

SHARE = 0.4
"""Of what the service does at most: what the replica that is left can do alone."""
AT = 0.25
"""Of the time, when the replica is killed."""


def measure(stage: Stage, report: Report) -> None:
    size, ours = stage.setup.size, stage.ours
    known = stage.saturated.get((ours.name, 1))
    rate = SHARE * (known or stage.saturate(ours, 1, size.window / 2).speed)
    champions = {
        task: info for task, info in stage.stock.registry.champions().items() if task.startswith("expert-")
    }
    load = open_loop(stage.address, ours, stage.jobs(max(4, round(rate * size.chaos))), rate)
    time.sleep(max(0.0, load.began + AT * size.chaos - time.monotonic()))
    victims = processes("host")
    if len(victims) < 2:
        report.failures.append(f"{len(victims)} replicas: none may be killed")
        load.outcome()
        return
    killed = time.monotonic()
    victims[0].kill()
    old = {process.pid for process in victims}
    until(lambda: len({p.pid for p in processes("host")} - {victims[0].pid}) >= len(old))
    until(lambda: stage.ready_on(task_name(0)) == stage.setup.replicas)
    back = time.monotonic() - killed
    outcome = load.outcome()
    after = [a for a in outcome.answers if a.at >= killed - 1]
    wrong = sum(
        a.said is not None and a.said.digest != champions[task_name(a.job.expert)].digest
        for a in outcome.answers
    )
    report.rows.append(
        {
            "jobs": len(outcome.answers),
            "jobs/s": rate,
            "lost": len(outcome.lost),
            "of another version": wrong,
            "p50 ms": round(outcome.percentile(50)),
            "p99 ms": round(outcome.percentile(99)),
            "slowest after the kill, ms": round(1000 * max((a.latency for a in after), default=0.0)),
            "s until all replicas are ready": back,
        }
    )
    if outcome.lost or wrong:
        report.failures.append(
            f"{len(outcome.lost)} jobs were lost and {wrong} answered by another version: {outcome.lost[:1]}"
        )
