"""Trainings as remote calls: outcomes as they come, lost workers replaced, failures kept apart.

A worker that dies costs the time since its last checkpoint: its cohort is submitted again, anywhere,
and ``fleet.training`` finds in storage what was done. An error that the training itself raised would
be raised again, so it becomes the task's outcome. A cohort of several tasks that comes to grief either
way is taken apart, so that one task never stops another. Knows nothing of registries or terminals.
"""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fleet.assignment import Assignment, TaskOutcome
from fleet.cluster.board import Board, Poster, Started, read
from fleet.cluster.plan import Cohort, plan
from fleet.cluster.session import Session
from fleet.engine.train import Progress
from fleet.errors import ClusterError, FleetError
from fleet.storage import Storage
from fleet.training import train_assignments

log = logging.getLogger(__name__)

LOST = (WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError, LocalRayletDiedError)
"""The machine's failures; everything else a call raises is the training's own."""
NEWS_SECONDS = 5.0
CANCEL_SECONDS = 60.0
"""How long interrupted workers may take to leave their checkpoint."""


@dataclass(frozen=True, slots=True)
class Order:
    """What every worker of one run is told."""

    base_name: str
    root: Path | None
    cache_dir: Path
    storage: str
    run: str
    """Name in storage of a file that the driver wrote: who does not see it sees another storage."""
    version: str
    """The driver's taskfleet."""
    checkpoint_seconds: float


@dataclass(frozen=True, slots=True)
class _Flight:
    """A cohort on its way, the first time or again."""

    cohort: Cohort
    attempt: int = 1


def train_on_cluster(
    session: Session,
    assignments: Sequence[Assignment],
    *,
    base_name: str,
    storage: str,
    cache_dir: Path,
    root: Path | None = None,
    workers: int | None = None,
    threads: int | None = None,
    checkpoint_seconds: float = 60.0,
    max_retries: int = 3,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_outcome: Callable[[TaskOutcome], None] = lambda outcome: None,
    on_start: Callable[[Started], None] = lambda started: None,
) -> list[TaskOutcome]:
    """Train all; an outcome for each assignment in their order, failures among them.

    ``on_outcome`` hears of each once, as it ends; all callbacks come from the calling thread. A node
    with ``FLEET_CACHE`` in its environment keeps its base there, the others in ``cache_dir``. An
    exception from a callback, and ``KeyboardInterrupt``, end the workers with fresh checkpoints and
    are raised again.

    Raises ``ClusterError`` when the cluster has no room for any training.
    """
    planned = plan(assignments, session.resources, workers=workers, threads=threads)
    place = Storage(storage)
    run = f"runs/{uuid.uuid4().hex}"
    order = Order(base_name, root, cache_dir, place.address, run, version("taskfleet"), checkpoint_seconds)
    place.write_text(run, order.version)
    try:
        campaign = _Run(order, planned.workers, max_retries, on_progress, on_outcome, on_start)
        outcomes = campaign.train(planned.cohorts)
    finally:
        place.remove(run)
    return [outcomes[assignment.task] for assignment in assignments]


class _Run:
    def __init__(
        self,
        order: Order,
        workers: int,
        max_retries: int,
        on_progress: Callable[[Progress], None],
        on_outcome: Callable[[TaskOutcome], None],
        on_start: Callable[[Started], None],
    ) -> None:
        self.order = order
        self.workers = workers
        self.max_retries = max_retries
        self.on_progress = on_progress
        self.on_outcome = on_outcome
        self.on_start = on_start
        self.waiting: deque[_Flight] = deque()
        self.flying: dict[Any, _Flight] = {}
        self.outcomes: dict[str, TaskOutcome] = {}
        # Here, and not on a worker's machine, whose death it must survive. Not softly: a node that has
        # just joined does not know ours yet and would keep the board to itself.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.board: Any = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here).remote()
        self.news: Any = self.board.drain.remote(NEWS_SECONDS)
        # Ray's own retries are silent and uncounted; ours show and take cohorts apart.
        self.call: Any = ray.remote(max_retries=0)(train_here)

    def train(self, cohorts: Sequence[Cohort]) -> dict[str, TaskOutcome]:
        self.waiting.extend(map(_Flight, cohorts))
        try:
            while self.waiting or self.flying:
                while self.waiting and len(self.flying) < self.workers:
                    self._submit(self.waiting.popleft())
                self._listen()
        except BaseException:
            self._cancel()
            raise
        finally:
            ray.kill(self.board)
        return self.outcomes

    def _submit(self, flight: _Flight) -> None:
        cohort = flight.cohort
        call = self.call.options(
            name=f"fleet train {' '.join(cohort.tasks)}", num_cpus=cohort.cpus, num_gpus=cohort.gpus
        )
        self.flying[call.remote(cohort, self.order, self.board, flight.attempt)] = flight

    def _listen(self) -> None:
        """Wait for one thing to happen and see to it."""
        calls = list(self.flying) + ([] if self.news is None else [self.news])
        ready, _ = ray.wait(calls, num_returns=1, timeout=NEWS_SECONDS)
        for call in ready:
            if call is self.news or call == self.news:
                self._tell()
            else:
                self._collect(call, self.flying.pop(call))

    def _tell(self) -> None:
        try:
            news: list[bytes] = ray.get(self.news)
        except RayActorError as error:
            log.warning("the board is gone, the trainings go on unseen: %s", error)
            self.news = None
            return
        self.news = self.board.drain.remote(NEWS_SECONDS)
        for item in map(read, news):
            if isinstance(item, Started):
                self.on_start(item)
            elif item.task not in self.outcomes:
                self.on_progress(item)

    def _collect(self, call: Any, flight: _Flight) -> None:
        try:
            outcomes: list[TaskOutcome] = ray.get(call)
        except LOST as error:
            self._lost(flight, error)
        except RayError as error:
            self._broken(flight, _cause(error))
        else:
            for outcome in outcomes:
                self._end(outcome)

    def _lost(self, flight: _Flight, error: RayError) -> None:
        tasks = ", ".join(flight.cohort.tasks)
        log.warning("lost the worker of %s in attempt %d: %s", tasks, flight.attempt, type(error).__name__)
        if len(flight.cohort.assignments) > 1:
            self._apart(flight)
        elif flight.attempt <= self.max_retries:
            self.waiting.appendleft(replace(flight, attempt=flight.attempt + 1))
        else:
            why = "memory ran out" if isinstance(error, OutOfMemoryError) else type(error).__name__
            self._fail(
                flight,
                f"its worker died in each of {flight.attempt} attempts (last: {why}); if memory ran "
                "out, lower training.batch_tokens or training.workers; run again to resume",
            )

    def _broken(self, flight: _Flight, why: str) -> None:
        if len(flight.cohort.assignments) > 1:
            self._apart(flight)
        else:
            self._fail(flight, why)

    def _apart(self, flight: _Flight) -> None:
        """Each task alone, with at least one attempt to go."""
        attempt = min(flight.attempt + 1, self.max_retries + 1)
        for assignment in reversed(flight.cohort.assignments):
            alone = replace(flight.cohort, assignments=(assignment,))
            self.waiting.appendleft(_Flight(alone, attempt))

    def _fail(self, flight: _Flight, why: str) -> None:
        for assignment in flight.cohort.assignments:
            self._end(TaskOutcome(assignment.task, assignment.key, "", "", why))

    def _end(self, outcome: TaskOutcome) -> None:
        self.outcomes[outcome.task] = outcome
        self.on_outcome(outcome)

    def _cancel(self) -> None:
        """End what flies as Ctrl-C would, and wait for the checkpoints that this leaves."""
        self.waiting.clear()
        for call in self.flying:
            ray.cancel(call, force=False, recursive=False)
        if self.flying:
            ray.wait(list(self.flying), num_returns=len(self.flying), timeout=CANCEL_SECONDS)


def train_here(cohort: Cohort, order: Order, board: Any, attempt: int) -> list[TaskOutcome]:
    """The remote call: train a cohort on the machine that this runs on."""
    node = str(ray.util.get_node_ip_address())
    if (mine := version("taskfleet")) != order.version:
        raise ClusterError(
            f"{node} has taskfleet {mine}, this command is of {order.version}: install the same everywhere"
        )
    storage = Storage(order.storage)
    if not storage.exists(order.run):
        raise ClusterError(
            f"{node} does not see the storage {storage} that this run was started with: set `storage` in "
            "fleet.yaml to a folder that every machine mounts, or to an address such as s3://bucket/fleet"
        )
    torch.set_num_threads(cohort.threads)
    poster = Poster(board)
    poster.started(cohort.tasks, node, attempt)
    with tempfile.TemporaryDirectory(prefix="taskfleet-", ignore_cleanup_errors=True) as scratch:
        return train_assignments(
            cohort.assignments,
            base_name=order.base_name,
            root=order.root,
            cache_dir=Path(os.environ.get("FLEET_CACHE") or order.cache_dir),
            storage=storage,
            scratch=Path(scratch),
            threads=cohort.threads,
            device="cuda" if cohort.gpus else "cpu",
            checkpoint_seconds=order.checkpoint_seconds,
            on_progress=poster,
        )


def _cause(error: RayError) -> str:
    """What the training raised, without Ray's wrapping and the remote traceback."""
    cause = error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
    if isinstance(cause, FleetError):
        return str(cause)
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[-1] if lines else 'no message'}"
