"""Which trainings run together, on what share of a machine, and in which order. Pure.

On cores a cohort is one task, so that tasks finish one by one, and every cohort has the same number of
threads whatever else is trained: another number may round otherwise and give another digest. On GPUs
several tasks share one pass over the base. Knows nothing of Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fleet.assignment import Assignment
from fleet.errors import ClusterError

THREADS = 2
"""Cores of one training unless fleet.yaml says otherwise."""
COHORT_TASKS = 8
"""Most tasks that share a GPU's pass."""
COHORTS_PER_GPU = 4
"""Most cohorts that share a GPU; validation of one then fills the gaps of another."""
CHARACTERS_PER_TOKEN = 4
FREE_TEXT_WEIGHT = 4
"""Free text is trained over the whole vocabulary, whose head costs more than the layers."""
FULL_WEIGHT = 1.75
"""Time of a full training in those of the same rows for LoRA: all weights have gradients and moments."""


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine offers."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Resources:
    """What the machines offer, each by itself: a cohort does not span two."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Cohort:
    """Assignments that one worker trains together, and what it needs for that."""

    assignments: tuple[Assignment, ...]
    cpus: float
    gpus: float
    threads: int

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(assignment.task for assignment in self.assignments)


@dataclass(frozen=True, slots=True)
class Plan:
    """Cohorts in the order in which to start them."""

    cohorts: tuple[Cohort, ...]
    workers: int
    """How many run at once."""


def plan(
    assignments: Sequence[Assignment],
    resources: Resources,
    *,
    workers: int | None = None,
    threads: int | None = None,
) -> Plan:
    """Every assignment in exactly one cohort, the longest first.

    More ``workers`` than the machines hold are a request: those cohorts wait for a machine, which an
    autoscaler may then start. Raises ``ClusterError`` when nothing could ever run.
    """
    if not assignments:
        return Plan((), 0)
    ordered = sorted(assignments, key=lambda a: (-estimated_tokens(a), a.task))
    gpu_nodes = [node for node in resources.nodes if node.gpus >= 1 and node.cpus >= 1]
    if gpu_nodes:
        return _on_gpus(ordered, gpu_nodes, workers, threads)
    return _on_cores(ordered, resources.nodes, workers, threads)


def estimated_tokens(assignment: Assignment) -> int:
    """Tokens of the whole training, weighed by their cost and guessed from the rows: good for an order."""
    rows = assignment.rows.train
    characters = sum(sum(map(len, row.fields.values())) + len(str(row.output)) for row in rows)
    if assignment.manifest["kind"] == "generation":
        characters *= FREE_TEXT_WEIGHT
    if assignment.manifest["adapter"]["method"] == "full":
        characters = int(FULL_WEIGHT * characters)
    return int(assignment.manifest["training"]["epochs"]) * characters // CHARACTERS_PER_TOKEN


def _on_cores(
    ordered: Sequence[Assignment], nodes: Sequence[Node], workers: int | None, threads: int | None
) -> Plan:
    cores = int(sum(node.cpus for node in nodes))
    largest = int(max((node.cpus for node in nodes), default=0))
    if largest < 1:
        if workers is None:
            raise ClusterError(
                "the cluster has no free machine: start a worker node, or set training.workers in fleet.yaml "
                "to how many trainings an autoscaler should make room for"
            )
        largest = threads or THREADS
    used = min(threads or THREADS, largest)
    if workers and cores and not threads:
        used = max(1, min(used, cores // workers))
    room = sum(int(node.cpus) // used for node in nodes)
    cohorts = tuple(Cohort((a,), float(used), 0.0, used) for a in ordered)
    return Plan(cohorts, min(len(cohorts), workers or max(1, room)))


def _on_gpus(
    ordered: Sequence[Assignment], nodes: Sequence[Node], workers: int | None, threads: int | None
) -> Plan:
    gpus = sum(int(node.gpus) for node in nodes)
    alike: dict[tuple[str, int], list[Assignment]] = {}
    for assignment in ordered:
        adapter = assignment.manifest["adapter"]
        alike.setdefault((adapter["method"], adapter["layers"][0]), []).append(assignment)
    # Small enough that every GPU has work.
    size = min(COHORT_TASKS, math.ceil(len(ordered) / gpus))
    groups = []
    for (method, _), group in alike.items():
        # Full adapters share next to nothing of a pass, and each needs a gigabyte and a half: one by one.
        each = 1 if method == "full" else size
        groups += [group[i : i + each] for i in range(0, len(group), each)]
    groups.sort(key=lambda group: -sum(map(estimated_tokens, group)))
    sharing = min(COHORTS_PER_GPU, math.ceil(min(len(groups), workers or len(groups)) / gpus))
    share = math.floor(10_000 / sharing) / 10_000  # Ray's own precision
    smallest = int(min(node.cpus / node.gpus for node in nodes) // sharing)
    used = max(1, min(threads or THREADS, smallest))
    room = sum(min(int(node.gpus) * sharing, int(node.cpus) // used) for node in nodes)
    cohorts = tuple(Cohort(tuple(group), float(used), share, used) for group in groups)
    return Plan(cohorts, min(len(cohorts), workers or max(1, room)))
