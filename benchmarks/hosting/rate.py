"""Jobs a second of which 99 of 100 are answered within a second: the highest rate that an open loop keeps.

Contenders take turns, a rate each; a rate that is kept is followed by a higher one. A trial lasts seconds, so
a rate a few per cent above what a server does for ever may still be kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.bench import Report
from benchmarks.hosting.load import Contender, Outcome, open_loop
from benchmarks.hosting.stage import Stage

WITHIN_MS = 1000.0
FIRST, STEP = 0.8, 1.25
"""Of what a closed loop does, tried first; from there until a rate is kept and another is not."""


@dataclass(slots=True)
class Search:
    """For one contender and size of batch."""

    contender: Contender
    batch: int
    rate: float
    """What is tried next."""
    kept: float = 0.0
    broken: float = math.inf
    at_best: Outcome | None = None

    def tell(self, outcome: Outcome) -> None:
        if outcome.percentile(99) <= WITHIN_MS:
            self.kept, self.at_best = max(self.kept, self.rate), outcome
        else:
            self.broken = min(self.broken, self.rate)
        if not self.kept:
            self.rate = self.broken / STEP
        elif math.isinf(self.broken):
            self.rate = self.kept * STEP
        else:
            self.rate = math.sqrt(self.kept * self.broken)


def measure(stage: Stage, report: Report) -> None:
    size = stage.setup.size
    contenders: list[Contender] = [stage.ours, *stage.peers[:1]]
    searches = [_search(stage, each, batch) for batch in (1, size.small_batch) for each in contenders]
    for _ in range(size.trials):
        for search in searches:
            jobs = stage.jobs(max(search.batch, round(search.rate * size.trial)))
            outcome = open_loop(
                stage.address, search.contender, jobs, search.rate, batch=search.batch, seed=stage.drawn
            ).outcome()
            print(
                f"  {search.contender.name}, batches of {search.batch}: {search.rate:.2f} jobs/s, "
                f"p99 {outcome.percentile(99):.0f} ms, lost {len(outcome.lost)}",
                flush=True,
            )
            search.tell(outcome)
    for search in searches:
        report.rows.append(_row(search))
    _compare(searches, report)


def _search(stage: Stage, contender: Contender, batch: int) -> Search:
    known = stage.saturated.get((contender.name, batch))
    return Search(
        contender,
        batch,
        FIRST * (known or stage.saturate(contender, batch, stage.setup.size.window / 2).speed),
    )


def _row(search: Search) -> dict[str, object]:
    best = search.at_best
    return {
        "contender": search.contender.name,
        "jobs of a request": search.batch,
        "jobs/s at p99 <= 1 s": search.kept or None,
        **{f"p{p} ms": None if best is None else round(best.percentile(p)) for p in (50, 99)},
        "not kept": None if math.isinf(search.broken) else search.broken,
    }


def _compare(searches: list[Search], report: Report) -> None:
    ours = {search.batch: search.kept for search in searches if search.contender.name == "ours"}
    for search in searches:
        if search.contender.name != "ours" and search.kept and ours[search.batch]:
            ratio = f"jobs/s at p99 <= 1 s, batches of {search.batch}: ours / {search.contender.name}"
            report.ratios[ratio] = ours[search.batch] / search.kept
