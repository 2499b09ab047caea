"""Jobs as a contender's requests, sent from another process; what came of each. Knows no contender."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks.serving.workload import Job

PATIENCE = 90.0
"""Seconds after which a client gives up: more than a service gives a job, so that its own reason is heard."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request."""

    path: str
    """At the service's address; with an address of its own, there."""
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and which version gave it where a contender says so."""

    label: str
    version: int | None = None
    digest: str = ""
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """What the host spent on it, by stage."""


class Contender(Protocol):
    """How jobs are put to a service, and what it says to them."""

    name: str

    def requests(self, jobs: Sequence[Job]) -> list[tuple[Request, list[Job]]]:
        """Requests that are sent together, each with its jobs in order."""
        ...

    def read(self, body: str, count: int) -> list[Said | str]:
        """The answer to each of so many jobs, or why there is none. Raises ``ValueError`` for no answer."""
        ...


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of one job; times are on the machine's monotonic clock."""

    job: Job
    at: float
    """When it was meant to be sent."""
    ended: float
    said: Said | None
    fault: str = ""

    @property
    def latency(self) -> float:
        """Seconds from the intended time; endless for a job without an answer."""
        return self.ended - self.at if self.said is not None else math.inf


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    answers: list[Answered]
    began: float

    @property
    def seconds(self) -> float:
        return max((answer.ended for answer in self.answers), default=self.began) - self.began

    @property
    def speed(self) -> float:
        """Jobs answered in a second, until the last one was."""
        return sum(answer.said is not None for answer in self.answers) / self.seconds

    @property
    def lost(self) -> list[str]:
        return [answer.fault for answer in self.answers if answer.said is None]

    def percentile(self, percent: float) -> float:
        """Of the latencies, in milliseconds; endless if so many were lost."""
        ordered = sorted(answer.latency for answer in self.answers)
        if not ordered:
            return math.inf
        # The nearest rank: between a latency and an endless one there is nothing to interpolate.
        return ordered[min(len(ordered) - 1, math.ceil(percent / 100 * len(ordered)) - 1)] * 1000


class Load:
    """One run that is going on in a process of its own."""

    def __init__(
        self,
        address: str,
        contender: Contender,
        arrivals: Sequence[tuple[float, Sequence[Job]]],
        *,
        clients: int = 0,
        seconds: float = 0.0,
    ) -> None:
        """Start: each arrival at its time, or, with ``clients``, one after the other for ``seconds``."""
        self._contender = contender
        self._sent = [contender.requests(jobs) for _, jobs in arrivals]
        orders = {
            "address": address,
            "arrivals": [
                {"at": at, "requests": [asdict(request) for request, _ in requests]}
                for (at, _), requests in zip(arrivals, self._sent, strict=True)
            ],
            "clients": clients,
            "seconds": seconds,
            "patience": PATIENCE,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.hosting.generator"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(orders))
        self._process.stdin.close()
        self.began: float = json.loads(self._line())["began"]
        """When the first arrival is due."""

    def outcome(self) -> Outcome:
        """Wait for the end."""
        replies = json.loads(self._line())
        self._process.wait()
        answers = []
        for number, place, at, _, ended, status, body in replies:
            jobs = self._sent[number][place][1]
            for job, said in zip(jobs, self._read(status, body, len(jobs)), strict=True):
                fault = said if isinstance(said, str) else ""
                answers.append(Answered(job, at, ended, None if fault else said, fault))
        return Outcome(answers, self.began)

    def _read(self, status: int, body: str, count: int) -> list[Said | str]:
        if status != 200:
            return [f"HTTP {status}: {body[:200]}"] * count
        try:
            return self._contender.read(body, count)
        except (ValueError, KeyError, IndexError) as error:
            return [f"{type(error).__name__}: {error}"] * count

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator ended with {self._process.wait()}")
        return line


def open_loop(
    address: str, contender: Contender, jobs: Sequence[Job], rate: float, *, batch: int = 1, seed: int = 0
) -> Load:
    """``jobs`` in batches, by a Poisson process of ``rate`` jobs a second in all."""
    gaps = np.random.default_rng(seed).exponential(batch / rate, size=-(-len(jobs) // batch))
    return Load(address, contender, list(zip(np.cumsum(gaps).tolist(), cut(jobs, batch), strict=True)))


def closed_loop(
    address: str, contender: Contender, jobs: Sequence[Job], seconds: float, *, clients: int, batch: int = 1
) -> Outcome:
    """So many clients, each sending its next batch when its last one is answered."""
    arrivals = [(0.0, batch_of) for batch_of in cut(jobs, batch)]
    return Load(address, contender, arrivals, clients=clients, seconds=seconds).outcome()


def cut(jobs: Sequence[Job], batch: int) -> list[Sequence[Job]]:
    return [jobs[start : start + batch] for start in range(0, len(jobs), batch)]


JobsOf = Callable[[int], Sequence[Job]]
"""So many jobs of the workload."""
