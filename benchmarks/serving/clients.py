"""A closed loop of clients: each sends its next job when its last one is answered. Knows no engine.

Latency is the time from sending to the answer, waiting included.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from benchmarks.serving.workload import Job


@dataclass(frozen=True, slots=True)
class Answered:
    """What an engine said to a job, and what it took."""

    job: Job
    tokens: int
    """Output tokens, the end token included."""
    ids: tuple[int, ...] = ()
    """The output, where it was chosen freely."""
    choice: int | None = None
    """Which of the ids that the constraint allowed first was taken, as an index."""
    steps: int | None = None
    """Forward passes that were computed for it; None if each token took one."""
    head_rows: int | None = None
    """Rows of the head that were multiplied for it; None if all of them for each token."""


class Server(Protocol):
    """An engine in the loop."""

    def send(self, jobs: Sequence[Job]) -> None:
        """Take jobs that have just arrived."""
        ...

    def work(self) -> list[Answered]:
        """Go on by the engine's own smallest unit; what was answered with it."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """What a run of jobs came to."""

    seconds: float
    answers: list[Answered]
    latencies: list[float]
    """Seconds, in the order of ``answers``."""


def closed_loop(server: Server, jobs: Sequence[Job], clients: int) -> Window:
    """Serve all jobs with so many clients; ends with the last answer."""
    coming = deque(jobs)
    sent: dict[int, float] = {}
    answers: list[Answered] = []
    latencies: list[float] = []
    started = time.perf_counter()
    while coming or sent:
        arriving = [coming.popleft() for _ in range(min(len(coming), clients - len(sent)))]
        now = time.perf_counter()
        sent.update((job.number, now) for job in arriving)
        if arriving:
            server.send(arriving)
        for answer in server.work():
            latencies.append(time.perf_counter() - sent.pop(answer.job.number))
            answers.append(answer)
    return Window(time.perf_counter() - started, answers, latencies)


def percentile(latencies: Sequence[float], percent: float) -> float:
    """In milliseconds."""
    return float(np.percentile(np.asarray(latencies) * 1000, percent))


def worst_expert(windows: Sequence[Window], percent: float) -> float:
    """The percentile of the expert for which it is largest, in milliseconds."""
    by_expert: dict[int, list[float]] = {}
    for window in windows:
        for answer, latency in zip(window.answers, window.latencies, strict=True):
            by_expert.setdefault(answer.job.expert, []).append(latency)
    return max(percentile(latencies, percent) for latencies in by_expert.values())


@dataclass(slots=True)
class StaticBatches:
    """An engine that answers closed batches: whoever comes later waits until the batch has ended."""

    pick: Callable[[Sequence[Job]], list[Job]]
    """Chooses a batch from what waits, oldest first."""
    answer: Callable[[Sequence[Job]], list[Answered]]
    waiting: list[Job] = field(default_factory=list)

    def send(self, jobs: Sequence[Job]) -> None:
        self.waiting += jobs

    def work(self) -> list[Answered]:
        batch = self.pick(self.waiting)
        taken = {job.number for job in batch}
        self.waiting = [job for job in self.waiting if job.number not in taken]
        return self.answer(batch)


def mates_of_length(size: int) -> Callable[[Sequence[Job]], list[Job]]:
    """Batches of one kind and, if more than ``size`` wait, of similar length around the oldest job."""

    def pick(waiting: Sequence[Job]) -> list[Job]:
        oldest = waiting[0]
        mates = sorted((job for job in waiting if job.kind == oldest.kind), key=lambda job: len(job.prompt))
        start = mates.index(oldest) // size * size
        return mates[start : start + size]

    return pick


def mates_of_expert(size: int) -> Callable[[Sequence[Job]], list[Job]]:
    """Batches of the oldest job's expert, at most ``size``."""

    def pick(waiting: Sequence[Job]) -> list[Job]:
        return [job for job in waiting if job.expert == waiting[0].expert][:size]

    return pick


def fastest(servers: Mapping[int, Server], jobs: Sequence[Job], clients: int) -> int:
    """The key of the server that serves the jobs soonest, each after a run that warms it up."""
    for server in servers.values():
        closed_loop(server, jobs[: clients // 4 or 1], clients)
    return min(servers, key=lambda key: closed_loop(servers[key], jobs, clients).seconds)
