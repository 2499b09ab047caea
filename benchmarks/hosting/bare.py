"""The engine without a service: hosts in processes of their own, each answering its share of the jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import ray
import torch

from benchmarks.hosting.load import cut
from fleet.engine.specs import Weights
from fleet.host import BATCH_JOBS, Host
from fleet.job import Job
from fleet.project import Project


class _Bare:
    """One process: a ``Host``, called directly."""

    def __init__(self, root: str, threads: int, weights: Weights) -> None:
        torch.set_num_threads(threads)
        self._host = Host.open(Project.find(root), weights=weights)

    def each(self, jobs: Sequence[Job]) -> list[float]:
        """Seconds that each job takes alone."""
        return [self._timed([job])[1] for job in jobs]

    def speed(self, jobs: Sequence[Job], seconds: float) -> float:
        """Jobs a second, in the batches that the host makes of many, until the time is over."""
        answered, taken = 0, 0.0
        for batch in cut(jobs, BATCH_JOBS):
            if taken >= seconds:
                break
            done, took = self._timed(batch)
            answered, taken = answered + done, taken + took
        return answered / taken

    def _timed(self, jobs: Sequence[Job]) -> tuple[int, float]:
        started = time.perf_counter()
        results = self._host.answer(jobs)
        took = time.perf_counter() - started
        if faults := [result.error for result in results if result.error]:
            raise RuntimeError(f"the bare engine has no answer: {faults[0]}")
        return len(results), took


class BareEngine:
    """As many hosts as the service has replicas, with as many threads each."""

    def __init__(self, root: str, hosts: int, threads: int, weights: Weights) -> None:
        made = ray.remote(_Bare).options(num_cpus=threads)
        self._hosts = [made.remote(root, threads, weights) for _ in range(hosts)]

    def each(self, jobs: Sequence[Job]) -> list[float]:
        """Seconds that each job takes, nothing else going on."""
        found: list[float] = ray.get(self._hosts[0].each.remote(jobs))
        return found

    def speed(self, jobs: Sequence[Job], seconds: float) -> float:
        """Jobs a second of all hosts together, each with its own share."""
        shares = [jobs[number :: len(self._hosts)] for number in range(len(self._hosts))]
        calls = [host.speed.remote(share, seconds) for host, share in zip(self._hosts, shares, strict=True)]
        return float(sum(ray.get(calls)))

    def close(self) -> None:
        for host in self._hosts:
            ray.kill(host)
