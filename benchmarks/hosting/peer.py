"""Jobs a second against the peer, both saturated with jobs for all experts; and whether they say the same."""

from __future__ import annotations

import statistics

from benchmarks.bench import Report
from benchmarks.hosting.load import Contender, Outcome, closed_loop
from benchmarks.hosting.stage import Stage

AIM = 4.0
DIFFERENT = 0.06
"""Share of labels that may differ: both round bf16 in their own order, and untrained experts have near ties
(``serve_mixed`` allows as many)."""
COMPARED = 96


def measure(stage: Stage, report: Report) -> None:
    agree(stage, report)
    size = stage.setup.size
    entries: list[tuple[Contender, int]] = [
        (each, batch) for batch in (1, size.batch) for each in (stage.ours, *stage.peers)
    ]
    runs: dict[tuple[str, int], list[Outcome]] = {(each.name, batch): [] for each, batch in entries}
    for _ in range(size.windows):
        for each, batch in entries:
            outcome = stage.saturate(each, batch, size.window)
            runs[each.name, batch].append(outcome)
            print(f"  {each.name}, batches of {batch}: {outcome.speed:.2f} jobs/s", flush=True)
    for (name, batch), outcomes in runs.items():
        speed = statistics.median(outcome.speed for outcome in outcomes)
        report.rows.append(
            {
                "contender": name,
                "jobs of a request": batch,
                "jobs/s": speed,
                **{f"p{p} ms": round(max(o.percentile(p) for o in outcomes)) for p in (50, 99)},
            }
        )
        if name != "ours":
            ratio = f"jobs/s saturated, {size.experts} experts, batches of {batch}: ours / {name}"
            ours = statistics.median(outcome.speed for outcome in runs["ours", batch])
            report.ratios[ratio] = ours / speed
            report.aim(ratio, at_least=AIM)


def agree(stage: Stage, report: Report) -> None:
    """The same jobs to both; the bench fails if they say different things."""
    jobs = stage.jobs(COMPARED if not report.smoke else 24)
    said = []
    for contender in (stage.ours, stage.peers[0]):
        outcome = closed_loop(stage.address, contender, jobs, 120.0, clients=8)
        if outcome.lost:
            report.failures.append(f"{contender.name} has no answer to {len(outcome.lost)} jobs")
            return
        said.append({answer.job.number: answer.said.label for answer in outcome.answers if answer.said})
    ours, theirs = said
    share = sum(ours[number] == theirs[number] for number in ours) / len(ours)
    report.notes.append(f"the peer gives {share:.1%} of our answers")
    if share < 1 - DIFFERENT and stage.setup.weights == "bf16":
        report.failures.append(
            f"the peer gives {share:.1%} of our answers, at least {1 - DIFFERENT:.0%} must be"
        )
    labels = set(ours.values())
    if len(labels) < 2:
        report.failures.append(f"all answers are {labels}: nothing is compared")
