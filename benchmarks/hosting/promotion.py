"""How long after an alias was set every replica answers with the version that it names.

Short jobs for one expert come at a steady rate, and their receipts tell: the change is live when the first
job comes after which none is answered by an older version. Each change names a version that no replica has
seen: it is fetched, checked and loaded within the time that is measured.
"""

from __future__ import annotations

import random
import time

from benchmarks.bench import Report
from benchmarks.hosting.load import Answered, Load
from benchmarks.hosting.stage import KIND, Stage
from benchmarks.hosting.stock import task_name
from benchmarks.serving.workload import Job
from fleet.registry.version import VersionInfo

MOST_SECONDS = 5.0
EXPERT = 1
TEXT = "Great value!"


def measure(stage: Stage, report: Report) -> None:
    size = stage.setup.size
    first = stage.stock.registry.resolve(task_name(EXPERT), "champion")
    coming = [stage.stock.register(EXPERT, promote=False) for _ in range(size.changes)]
    luck = random.Random(0)
    # The watcher looks once a second: changes must not keep its time.
    gaps = [size.gap + luck.random() for _ in range(size.changes)]
    spacing = 1 / size.probes
    probes = [
        (number * spacing, [Job(number, KIND, EXPERT, TEXT, (), ())])
        for number in range(round((sum(gaps) + size.gap) / spacing))
    ]
    load = Load(stage.address, stage.ours, probes)
    time.sleep(max(0.0, load.began + size.gap / 2 - time.monotonic()))
    set_at: list[float] = []
    for info, gap in zip(coming, gaps, strict=True):
        set_at.append(time.monotonic())
        stage.stock.promote(info)
        time.sleep(gap)
    outcome = load.outcome()
    answers = sorted(outcome.answers, key=lambda answer: answer.at)
    lost = len(outcome.lost)
    mixed = sum(_mixed(answer, {info.version: info for info in (first, *coming)}) for answer in answers)
    taken, overlaps = [], []
    for number, (info, began) in enumerate(zip(coming, set_at, strict=True)):
        ends = set_at[number + 1] if number + 1 < len(set_at) else float("inf")
        during = [a for a in answers if began <= a.at < ends and a.said is not None]
        older = [a.at for a in during if a.said.version < info.version]
        newer = [a.at for a in during if a.said.version == info.version]
        live = min((at for at in newer if at > max(older, default=0.0)), default=float("inf"))
        taken.append(live - began)
        overlaps.append(max(0.0, max(older, default=0.0) - min(newer, default=float("inf"))))
    _tell(report, taken, overlaps, stage)
    report.notes.append(
        f"{len(answers)} jobs meanwhile, {size.probes:.0f} a second, p99 {outcome.percentile(99):.0f} ms; "
        f"lost {lost}, mixed {mixed}"
    )
    if lost or mixed:
        report.failures.append(f"{lost} jobs were lost and {mixed} mixed while versions changed")


def _mixed(answer: Answered, versions: dict[int, VersionInfo]) -> bool:
    """Whether a receipt's digest is not its version's."""
    said = answer.said
    return said is not None and (said.version not in versions or versions[said.version].digest != said.digest)


def _tell(report: Report, taken: list[float], overlaps: list[float], stage: Stage) -> None:
    for what, seconds in (
        ("from setting the alias to live on every replica", taken),
        ("of it, replicas that differ", overlaps),
    ):
        ordered = sorted(seconds)
        report.rows.append(
            {
                "what": what,
                "changes": len(ordered),
                "replicas": stage.setup.replicas,
                "s, median": ordered[len(ordered) // 2],
                "s, 99 of 100": ordered[-1],
            }
        )
    report.ratios["s until a change is live, 99 of 100"] = max(taken)
    report.aim("s until a change is live, 99 of 100", at_most=MOST_SECONDS)
