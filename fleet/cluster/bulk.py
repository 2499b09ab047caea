"""A file's parts through the replicas of a cluster, streamed by Ray Data. Knows nothing of where results go.

A part is read, answered and encoded by one of a few feeders on this machine, which has the file; replicas
compute, feeders wait. How many jobs are on their way at a time is bounded, whatever the file's size. A job
that finds no room, or whose replica dies, is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from fleet.bulk.results import Tally, encode
from fleet.bulk.source import Kind, Part, read_part
from fleet.cluster.ingress import ReplicaBackend
from fleet.cluster.serving import APPLICATION
from fleet.errors import ClusterError, InputError
from fleet.job import Job, Result
from fleet.lines import result_line

FEEDERS = 2
"""Parts that are answered at a time: while one comes to its end, the replicas have the other."""
CALL = 8
"""Jobs that go to one replica together."""
PER_REPLICA = 64
"""Jobs on their way for each replica, if nobody says how many: a batch, and what fills the next one."""
JOB_SECONDS = 600.0
TRIES = 5
"""Of a job that fails in a way that may pass, or is late. One that finds no room is tried until there is."""
PASSING = frozenset({"overloaded", "failed", "deadline"})
LONGEST_WAIT = 20.0
WINDOW = 1000
"""Parts that Ray Data is told of at a time, so that a long file costs no more than a short one."""


@dataclass(frozen=True, slots=True)
class Order:
    """What holds for every part."""

    path: Path
    kind: Kind
    form: Kind
    task: str | None
    top: int
    all: bool
    in_flight: int | None
    """Jobs on their way at a time; None is as many as keep the replicas busy."""
    cluster: str
    """Its address, for what is said about it."""

    @property
    def feeders(self) -> int:
        return min(FEEDERS, self.in_flight or FEEDERS)


@dataclass(frozen=True, slots=True)
class AnsweredPart:
    part: Part
    content: bytes
    tally: Tally


def running_replicas(where: str) -> int:
    """How many replicas could answer now. Raises ``ClusterError`` when no fleet is served."""
    try:
        application = serve.status().applications.get(APPLICATION)
    except (RayServeException, RayError):
        application = None
    if application is None or "host" not in application.deployments:
        raise ClusterError(
            f"no fleet is served on the Ray at {where}: start one there (fleet serve --address {where})"
        )
    return int(application.deployments["host"].replica_states.get("RUNNING", 0))


def answer_parts(order: Order, parts: Iterator[Part]) -> Iterator[AnsweredPart]:
    """Each part with its results, in any order. In a Ray session; raises ``FleetError``."""
    _be_quiet()
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    while window := list(islice(parts, WINDOW)):
        by_number = {part.number: part for part in window}
        rows = (
            ray.data.from_items([asdict(part) for part in window], override_num_blocks=len(window))
            .map(
                _feed,
                fn_kwargs={"order": order},
                compute=ray.data.TaskPoolStrategy(size=min(order.feeders, len(window))),
                num_cpus=0,  # replicas may have all of them
                label_selector=here,
            )
            .iter_rows()
        )
        for row in rows:
            if row["fault"]:
                raise (InputError if row["input_fault"] else ClusterError)(row["fault"])
            yield AnsweredPart(by_number[row["number"]], row["content"], Tally(**row["tally"]))


def _be_quiet() -> None:
    """Ray Data reports on itself in many lines and bars; there is a progress of our own."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


# ---- in a feeder


def _feed(row: dict[str, Any], order: Order) -> dict[str, Any]:
    """Answer a part. What goes wrong is told, not raised: Ray Data would wrap it in its own words."""
    part = Part(**row)
    told = {
        "number": part.number,
        "fault": "",
        "input_fault": False,
        "content": b"",
        "tally": asdict(Tally()),
    }
    try:
        lines = read_part(order.path, order.kind, part, order.task, every=order.all)
        jobs = [replace(line.job, patient=True) for line in lines if line.job is not None]
        results = iter(asyncio.run(_Feeder(order).answer(jobs)))
        contents = [result_line(line, None if line.job is None else next(results)) for line in lines]
    except (InputError, ClusterError) as error:
        return {**told, "fault": str(error), "input_fault": isinstance(error, InputError)}
    tally = asdict(Tally.of(contents))
    return {**told, "content": encode(contents, order.form), "tally": tally}


class _Again(Exception):
    """Some jobs are worth another try after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class _Feeder:
    """The jobs of one part, some at a time."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._backend = _backend()
        replicas = running_replicas(order.cluster)  # there may be more or fewer than for the last part
        jobs = (order.in_flight or PER_REPLICA * max(1, replicas)) // order.feeders
        self._call = min(CALL, jobs)
        self._room = asyncio.Semaphore(jobs // self._call)

    async def answer(self, jobs: Sequence[Job]) -> list[Result]:
        shares = [jobs[start : start + self._call] for start in range(0, len(jobs), self._call)]
        answered = await asyncio.gather(*map(self._share, shares))
        return [result for results in answered for result in results]

    async def _share(self, jobs: Sequence[Job]) -> list[Result]:
        settled: dict[int, Result] = {}
        failures = 0

        def enough(state: RetryCallState) -> bool:
            return failures >= TRIES

        with contextlib.suppress(_Again):
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(_Again), stop=enough, wait=_pause, reraise=True
            ):
                with attempt:
                    open_ = [n for n in range(len(jobs)) if n not in settled or may_pass(settled[n])]
                    async with self._room:
                        results = await self._backend.answer(
                            [jobs[n] for n in open_], top=self._order.top, seconds=JOB_SECONDS
                        )
                    settled.update(zip(open_, results, strict=True))
                    again = [result for result in results if may_pass(result)]
                    failures += any(result.code != "overloaded" for result in again)
                    if again:
                        raise _Again(max(result.retry_after or 1 for result in again))
        if failures >= TRIES and not running_replicas(self._order.cluster):
            raise ClusterError("no replica of the fleet answers any more")
        return [settled[n] for n in range(len(jobs))]


@cache
def _backend() -> ReplicaBackend:
    """One for a process: each keeps itself informed of the replicas."""
    return ReplicaBackend(serve.get_deployment_handle("host", app_name=APPLICATION), None, JOB_SECONDS)


def may_pass(result: Result) -> bool:
    """Whether the job, or one of the experts that it was for, may yet be answered."""
    return not PASSING.isdisjoint({result.code, *result.failed_codes.values()})


_backoff: Callable[[RetryCallState], float] = wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT)


def _pause(state: RetryCallState) -> float:
    """What the replica has asked for, at least, and longer each time."""
    error = state.outcome.exception() if state.outcome is not None else None
    return max(error.seconds if isinstance(error, _Again) else 0.0, _backoff(state))
