"""Jobs a second through trunk and scheduler, by number of experts, size of the batch and kind of answer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks.bench import Report
from benchmarks.on_device.subject import Answering, Job, Subject, random_jobs
from fleet.engine.decode import Completion, Scheduler
from fleet.engine.trunk import run_trunk


def measure(subject: Subject, report: Report, time_left: Callable[[], float]) -> None:
    """One row for every combination, as far as the time goes."""
    size = subject.size
    for text_tokens in (0, size.text_tokens):
        for batch in size.batches:
            for experts in size.text_experts if text_tokens else size.experts:
                if time_left() < 0:
                    report.notes.append(
                        f"not measured for want of time: {name(text_tokens)}, {batch}, {experts}"
                    )
                    continue
                report.rows.append(_row(subject, report, batch, experts, text_tokens))
                print(report.rows[-1], flush=True)


def _row(
    subject: Subject, report: Report, batch: int, experts: int, text_tokens: int
) -> dict[str, int | float | str]:
    size = subject.size
    jobs = random_jobs(size, batch if text_tokens else batch * size.waves, experts)
    answer(subject, jobs[:batch], batch, min(text_tokens, 2))  # warms up
    seconds = []
    for _ in range(1 if text_tokens else size.repetitions):
        started = time.perf_counter()
        done = answer(subject, jobs, batch, text_tokens)  # ends with values on the host: nothing is pending
        seconds.append(time.perf_counter() - started)
        if wrong := [c.error or c.fault for c in done if c.error or c.fault]:
            report.failures.append(f"{len(wrong)} of {len(done)} jobs failed: {wrong[0]}")
    median = statistics.median(seconds)
    return {
        "answer": name(text_tokens),
        "max_rows": batch,
        "experts": experts,
        "experts asked": len({job.expert for job in jobs}),
        "jobs/s": len(jobs) / median,
        "tokens/s": sum(len(job.ids) for job in jobs) / median,
        "ms a batch": 1000 * median * batch / len(jobs),
    }


def name(text_tokens: int) -> str:
    return f"text, {text_tokens} tokens" if text_tokens else "label"


def answer(subject: Subject, jobs: list[Job], max_rows: int, text_tokens: int) -> list[Completion]:
    """Everything that a host does for these jobs once it knows their experts."""
    states = run_trunk(subject.model, subject.size.depth, [job.ids for job in jobs])
    answering = Answering(subject.size)
    requests = [
        answering.request(number, job, state, text_tokens)
        for number, (job, state) in enumerate(zip(jobs, states, strict=True))
    ]
    return Scheduler(subject.model, subject.bank, subject.size.depth, max_rows=max_rows).run(requests)
