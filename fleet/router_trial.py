"""What the router would make of the project's tasks, tried in memory: nothing is registered or promoted.

Knows nothing of how the results are shown.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fleet.apart import collision_faults
from fleet.asking import ROUTED_TOKENS, Asking
from fleet.data.rows import TaskRows, load_task_rows
from fleet.engine.base import Base
from fleet.engine.prompt import render_job
from fleet.errors import ArtifactError, Fault, InputError, JobError
from fleet.lines import Line
from fleet.manifest import Manifest
from fleet.project import Project
from fleet.recipe import task_spec
from fleet.registry.store import ROUTER, Registry
from fleet.router_release import budget_of, foreign_jobs, routable, router_task
from fleet.routing.artifact import load_router
from fleet.routing.evidence import INPUT, pick_rows
from fleet.routing.fit import gather, is_current, lay_ground, told_of
from fleet.routing.head import Router
from fleet.routing.likeness import judge_router
from fleet.routing.reading import read_texts
from fleet.routing.task import RouterTask
from fleet.routing.whatif import WhatIf, what_if
from fleet.stores import artifact_cache
from fleet.ticket import Ticket

__all__ = ["MOST_JOBS", "MOST_ROWS", "Trial", "router_faults", "try_task"]

log = logging.getLogger(__name__)

MOST_ROWS = 200
"""Evaluation rows of a task that are decided."""
MOST_JOBS = 2000
"""Jobs of a file that are decided: the last ones."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a task would take, and by whom and on what that was found."""

    router_version: int | None
    """Of the champion that was tried; None if one was fitted for it."""
    jobs: int
    """Jobs or rows that were decided for the tasks that are there."""
    left_out: tuple[str, ...]
    """Jobs of the file that were not, each with its reason."""
    found: WhatIf


@dataclass(frozen=True, slots=True)
class _Sample:
    texts: list[str]
    sources: list[str]
    owners: list[str] | None


def try_task(
    project: Project, registry: Registry, base: Base, task: str, lines: Iterable[Line] | None = None
) -> Trial:
    """Decide evaluation rows, or the jobs of ``lines``, without and with ``task``; it needs no champion.

    Raises ``InputError`` for a task that is unknown or whose rows cannot be read, and where no other task
    is routed to.
    """
    learned = router_task(project, task)
    champions = set(registry.champions()) - {ROUTER}
    if not champions - {task}:
        raise InputError(f"no other task has a champion, so {task} could take no traffic: fleet train-all")
    others = champions - {task}
    current, version = _present(project, registry, base, others)
    held = current.evidence.get(task)
    if held is None or held.digest != learned.data_digest:
        held = gather(base, current.ground, learned)
    without = current.remove(task) if task in current.tasks else current
    extended = without.add(task, held)
    budget = budget_of(project, [name for name in extended.tasks if name in project.task_names()])
    if budget != extended.budget:
        without, extended = without.under(budget), extended.under(budget)
    left_out: list[str] = []
    if lines is None:
        sample = _evaluation(project, [name for name in without.tasks if name in others])
    else:
        sample = _jobs(base, project, lines, left_out)
    own = _evaluation(project, [task])
    if not sample.texts or not own.texts:
        raise InputError("there is no job to try it on: " + ("; ".join(left_out) or "the rows are empty"))
    log.info("router: reading %d jobs", len(sample.texts) + len(own.texts))
    found = what_if(
        without,
        extended,
        task,
        read_texts(base, sample.texts, without.taps),
        sample.sources,
        sample.owners,
        read_texts(base, own.texts, without.taps),
        champions,
    )
    return Trial(version, len(sample.texts), tuple(left_out), found)


def router_faults(
    project: Project, base: Base, fleet: Mapping[str, tuple[Manifest, TaskRows]]
) -> list[Fault]:
    """Warnings about tasks that a router over all of them could not tell apart, by all that it measures."""
    tasks = routable(project, fleet)
    if len(tasks) < 2:
        return []
    router = _fitted(project, base, tasks)
    picks = {each.name: pick_rows(each.texts, each.examples, each.sources) for each in tasks}
    inputs = {name: [pick for pick in rows if pick.kind == INPUT] for name, rows in picks.items()}
    return collision_faults(
        {name: fleet[name][0] for name in inputs},
        {name: [pick.text for pick in rows] for name, rows in inputs.items()},
        {name: [pick.source for pick in rows] for name, rows in inputs.items()},
        judge_router(router),
        "states and letters",
    )


def _present(project: Project, registry: Registry, base: Base, others: set[str]) -> tuple[Router, int | None]:
    """The router that decides now, and its version; without one that can, one over the ``others``."""
    current, version = _champion(project, registry, base)
    if current is not None and others & set(current.tasks):
        return current, version
    log.info("router: fitting one over the present champions")
    tasks = routable(project, others)
    if not tasks:
        raise InputError("no champion of another task is declared in this project any more: fleet train-all")
    return _fitted(project, base, tasks), None


def _fitted(project: Project, base: Base, tasks: Sequence[RouterTask]) -> Router:
    """As it decides; without the attacks that one is tried with before it is registered."""
    ground = told_of(base, lay_ground(base, project.config.trunk_layers), foreign_jobs(project))
    evidence = {task.name: gather(base, ground, task) for task in tasks}
    return Router.build(ground, evidence, budget_of(project, evidence))


def _champion(project: Project, registry: Registry, base: Base) -> tuple[Router | None, int | None]:
    """The router that decides now, if it can be used with this base and release."""
    info = registry.champion(ROUTER)
    if info is None:
        return None, None
    try:
        router = load_router(registry.fetch(info, artifact_cache(project)), digest=info.digest)
    except ArtifactError as error:
        log.warning("router version %d is not used: %s", info.version, error)
        return None, None
    if not is_current(router, base.fingerprint, project.config.trunk_layers):
        log.warning("router version %d is of another base, depth or release and is not used", info.version)
        return None, None
    return router, info.version


def _evaluation(project: Project, names: Sequence[str]) -> _Sample:
    """Evaluation rows, of each task the first by their hash."""
    texts: list[str] = []
    sources: list[str] = []
    owners: list[str] = []
    for name in names:
        try:
            manifest = project.task(name)
            rows = load_task_rows(project.root, manifest).eval
        except InputError as error:
            log.warning("%s is tried without evaluation rows: %s", name, error)
            continue
        prompt = task_spec(manifest).prompt
        places = {render_job(prompt, row.fields): row.place for row in rows}
        chosen = sorted(places, key=_hash)[:MOST_ROWS]
        texts += chosen
        sources += [places[text] for text in chosen]
        owners += [name] * len(chosen)
    return _Sample(texts, sources, owners)


def _jobs(base: Base, project: Project, lines: Iterable[Line], left_out: list[str]) -> _Sample:
    """The last jobs that the router would be asked about."""
    asking = Asking(base, base.model, project.config.trunk_layers, ROUTED_TOKENS)
    kept: deque[tuple[str, str]] = deque(maxlen=MOST_JOBS)
    named = 0
    for line in lines:
        if line.job is None:
            left_out.append(line.error)
            continue
        if line.job.tasks:
            named += 1
            continue
        ticket = Ticket(line.job)
        try:
            ticket.fields = line.job.named_fields()
            asking.read(ticket)
        except JobError as error:
            left_out.append(f"job {line.id}: {error}")
            continue
        kept.append((ticket.text, line.id))
    if named:
        left_out.append(f"{named} jobs name their task, so no router is asked about them")
    return _Sample([text for text, _ in kept], [name for _, name in kept], None)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
