"""10, 100 and 1,000 tasks: time of a decision, memory, time to add a task.

Tasks are CLINC150's intents, 50 rows of each, moved about in the router's space so that a thousand differ.
Their letters are the intents' own, so what the accuracy of such a fleet would be is not asked. A decision
is timed from pooled states and texts to the words about it, letters read; the trunk's pass is not in it
(``route`` has the share of a whole job).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.bench import Report, forget_peak, peak_resident_mib, resident_mib
from benchmarks.routing.stage import Stage, columns
from fleet.routing.evidence import Evidence, pick_rows
from fleet.routing.head import Router
from fleet.routing.lexical import grams
from fleet.routing.reading import Readings, read_texts

FILES = ("clinc150/train.jsonl", "clinc150/test.jsonl")
TASKS = (10, 100, 1000)
SMOKE_TASKS = (2, 3)
ROWS = 50
BATCHES = (1, 64)
TIMES = 15


def measure(stage: Stage, report: Report) -> None:
    seeds = _seeds(stage)
    jobs = columns(stage.rows(FILES[1]))[0][: max(BATCHES)]
    read = stage.read(jobs, "test rows")
    for count in TASKS if stage.cut is None else SMOKE_TASKS:
        stage.say(f"{count} tasks")
        tasks = {f"task-{n:04d}": _moved(seeds[n % len(seeds)], n) for n in range(count)}
        forget_peak()
        before = resident_mib()
        started = time.perf_counter()
        router = Router.build(stage.ground, tasks)
        built = time.perf_counter() - started
        peak = peak_resident_mib() - before
        more = _moved(seeds[0], count)
        started = time.perf_counter()
        router.add("one-more", more)
        added = time.perf_counter() - started
        report.rows.append(
            {
                "tasks": count,
                **{f"ms a decision, {n} at once": _decision_ms(router, read, n) for n in BATCHES},
                "MB of maps": _maps(router) / 1e6,
                "MB of rows": sum(_bytes(each) for each in tasks.values()) / 1e6,
                "MiB more while fitting": peak,
                "s to fit": built,
                "s to add one": added,
            }
        )
        del router
    first, last = report.rows[0], report.rows[-1]
    for column in (f"ms a decision, {n} at once" for n in BATCHES):
        report.ratios[f"{column}: {last['tasks']} tasks / {first['tasks']}"] = last[column] / first[column]


def _seeds(stage: Stage) -> list[Evidence]:
    by_task: dict[str, list[str]] = {}
    for text, task in stage.fewer(stage.rows(FILES[0])):
        by_task.setdefault(task, []).append(text)
    found = []
    for number, texts in enumerate(by_task.values()):
        if not number % max(1, len(by_task) // 5):
            stage.say(f"reading {ROWS} rows of an intent, {number + 1} of {len(by_task)}")
        picks = pick_rows(texts[:ROWS], (), [""] * len(texts[:ROWS]))
        read = read_texts(stage.base, [pick.text for pick in picks], stage.ground.taps)
        found.append(Evidence.of("", picks, stage.ground.frame.place(read.raw), read.grams, read.tokens))
    return found


def _moved(evidence: Evidence, seed: int) -> Evidence:
    """Another task of the same shape, in another place."""
    shift = np.random.default_rng(seed).normal(0, 8, evidence.rows.shape[1])
    rows = np.clip(np.rint(evidence.rows + shift), -127, 127).astype(np.int8)
    return replace(evidence, rows=rows)


def _decision_ms(router: Router, read: Readings, batch: int) -> float:
    """Of one job, when so many are decided at once."""

    def decide() -> None:
        texts = read.texts[:batch]
        router.decide(Readings(read.raw[:batch], grams(texts), read.tokens[:batch], texts))

    return _median(decide) * 1e3 / min(batch, len(read))


def _median(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(TIMES):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _maps(router: Router) -> int:
    letters = router.lexicon.weights
    return int(
        router.dense.weights.nbytes + letters.data.nbytes + letters.indices.nbytes + letters.indptr.nbytes
    )


def _bytes(each: Evidence) -> int:
    return int(
        each.rows.nbytes + each.grams.data.nbytes + each.grams.indices.nbytes + each.grams.indptr.nbytes
    )
