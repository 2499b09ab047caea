"""Jobs that come all the time while something breaks, and what became of each. Knows nothing of what breaks.

A client does what its users should: told to come again (429 or 503 with Retry-After), or cut off, it does,
with the same job. Every answer is held against what the version on its receipt says, which is known before.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np

from fleet.chaos.case import JOBS

AGAIN = (429, 503)
BROKEN = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""A connection that there was; one that is refused is a job lost."""
PATIENCE = 60.0
"""Seconds for which a client comes again before it calls its job lost."""
PAUSE = 0.2
"""Seconds after a connection that broke."""
SHOWN = 5
"""Faults that are told in words."""

Known = Mapping[str, Mapping[tuple[int, str], Mapping[str, str]]]
"""By task: by version and digest, what it says to each text."""


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What became of the jobs."""

    jobs: int = 0
    answered: int = 0
    again: int = 0
    """Times that a client was told to come again."""
    lost: int = 0
    """Jobs without an answer, or with one that no client can make sense of."""
    mixed: int = 0
    """With another job's answer, or one that no version gives."""
    misdated: int = 0
    """With what another version says than the one that the receipt names."""
    broken: int = 0
    """Times that a connection broke off, and the client came again."""
    p50_ms: float | None = None
    """From the first try to the answer."""
    p99_ms: float | None = None
    said: tuple[str, ...] = ()
    """The first faults, in words."""

    @property
    def failures(self) -> tuple[str, ...]:
        counts = {"lost": self.lost, "mixed": self.mixed, "misdated": self.misdated}
        told = tuple(f"{count} of {self.jobs} jobs {kind}" for kind, count in counts.items() if count)
        return told + self.said


class Load:
    """Sends jobs and judges answers; any number of threads may have it do so."""

    def __init__(self, client: httpx.Client, known: Known, *, patience: float = PATIENCE) -> None:
        self._client = client
        self._patience = patience
        self.known = known
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._figures = LoadFigures()
        self._took: list[float] = []
        self._versions: set[tuple[str, int]] = set()

    def send(self, task: str, text: str, *, key: str | None = None) -> dict[str, Any] | None:
        """One job, until it has its answer; its result, or None when it is lost."""
        id = f"job-{next(self._numbers)}"
        began = time.perf_counter()
        headers = {} if key is None else {"Idempotency-Key": key}
        body = {"id": key or id, "text": text, "task": task}
        while True:
            try:
                response = self._client.post(JOBS, json=body, headers=headers)
            except httpx.HTTPError as error:
                late = time.perf_counter() - began > self._patience
                if isinstance(error, BROKEN) and not late:
                    self._count(broken=1)
                    time.sleep(PAUSE)
                    continue
                self._end("lost", f"{task} {text!r}: {type(error).__name__} {error}")
                return None
            late = time.perf_counter() - began > self._patience
            if response.status_code not in AGAIN or "retry-after" not in response.headers or late:
                break
            self._count(again=1)
            time.sleep(min(1.0, float(response.headers["retry-after"])))
        if response.status_code != 200:
            self._end("lost", f"{task} {text!r}: {response.status_code} {response.text[:300]}")
            return None
        result: dict[str, Any] = response.json()
        right = self.judge(result, body["id"], task, text, seconds=time.perf_counter() - began)
        return result if right else None

    def judge(
        self, result: Mapping[str, Any], id: str, task: str, text: str, *, seconds: float | None = None
    ) -> bool:
        """Whether this is the job's own answer, by the version on its receipt; counted either way."""
        kind, fault = self._judged(result, id, task, text)
        if kind:
            self._end(kind, f"{task} {text!r}: {fault}")
            return False
        self._count(jobs=1, answered=1)
        with self._lock:
            self._versions.add((task, result["answers"][0]["receipt"]["version"]))
            if seconds is not None:
                self._took.append(seconds)
        return True

    def _judged(self, result: Mapping[str, Any], id: str, task: str, text: str) -> tuple[str, str]:
        answers = result["answers"]
        if result["id"] != id or [answer["task"] for answer in answers] != [task]:
            return "mixed", f"{result['id']} {[answer['task'] for answer in answers]} {result['error']}"
        receipt, said = answers[0]["receipt"], answers[0]["text"]
        versions = self.known[task]
        named = versions.get((receipt["version"], receipt["digest"]))
        if named is None:
            return "misdated", f"nobody knows version {receipt['version']}, {receipt['digest'][:12]}"
        if said == named[text]:
            return "", ""
        others = [number for (number, _), says in versions.items() if says[text] == said]
        if others:
            return "misdated", f"what version {others[0]} says, with version {receipt['version']}'s receipt"
        return "mixed", f"{said!r}, where version {receipt['version']} says {named[text]!r}"

    def _end(self, kind: str, said: str) -> None:
        self._count(jobs=1, **{kind: 1})
        with self._lock:
            self._figures = replace(self._figures, said=(*self._figures.said, said)[:SHOWN])

    def _count(self, **more: int) -> None:
        with self._lock:
            sums = {name: getattr(self._figures, name) + number for name, number in more.items()}
            self._figures = replace(self._figures, **sums)

    @contextmanager
    def running(self, jobs: Sequence[tuple[str, str]], clients: int) -> Iterator[None]:
        """So many clients send these jobs (task and text), over and over, while the block lasts."""
        enough = threading.Event()
        turns = itertools.cycle(jobs)

        def client() -> None:
            while not enough.is_set():
                with self._lock:
                    task, text = next(turns)
                self.send(task, text)

        with ThreadPoolExecutor(clients) as pool:
            sending = [pool.submit(client) for _ in range(clients)]
            try:
                yield
            finally:
                enough.set()
        for each in sending:
            each.result()

    def versions(self, task: str) -> set[int]:
        """Those that have answered."""
        with self._lock:
            return {version for named, version in self._versions if named == task}

    @property
    def jobs(self) -> int:
        """That have ended so far."""
        return self._figures.jobs

    def figures(self) -> LoadFigures:
        """Of all jobs so far."""
        with self._lock:
            if not self._took:
                return self._figures
            p50, p99 = (np.percentile(self._took, (50, 99)) * 1000).tolist()
            return replace(self._figures, p50_ms=p50, p99_ms=p99)
