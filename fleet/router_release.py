"""The router kept in step with the champions: fitted, registered, made champion. Never routes to nobody.

Only tasks that have a champion are routed to. Tasks whose rows have not changed since the router's
last version are taken over from it without touching the base.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from fleet.asking import bare_text
from fleet.data.rows import load_task_rows
from fleet.engine.base import Base
from fleet.engine.base_folder import fingerprint
from fleet.engine.prompt import render_job
from fleet.errors import ArtifactError, DataError, InputError
from fleet.foreign import read_foreign
from fleet.project import Project
from fleet.recipe import task_spec
from fleet.registry.lifecycle import promote
from fleet.registry.store import ROUTER, Registry, RunRecord
from fleet.routing.artifact import load_router, save_router
from fleet.routing.background import Foreign
from fleet.routing.budget import Budget
from fleet.routing.fit import fit_router, is_current
from fleet.routing.head import Router
from fleet.routing.task import RouterTask
from fleet.stores import artifact_cache, base_folder, open_policy

log = logging.getLogger(__name__)


def refit_router(project: Project, registry: Registry, base: Callable[[], Base]) -> str:
    """Fit and promote the router over the present champions; what was done, in a sentence."""
    champions = set(registry.champions()) - {ROUTER}
    tasks = routable(project, champions)
    if not tasks:
        return "no task has a champion yet, so there is nothing to route to"
    current = registry.champion(ROUTER)
    previous: Router | None = None
    if current is not None:
        try:
            previous = load_router(registry.fetch(current, artifact_cache(project)), digest=current.digest)
        except ArtifactError:
            previous = None  # an unusable router is replaced by a fresh fit
    depth = project.config.trunk_layers
    if previous is not None and not is_current(previous, fingerprint(base_folder(project)), depth):
        previous = None
    budget = budget_of(project, [task.name for task in tasks])
    foreign = foreign_jobs(project)
    same = previous is not None and previous.budget == budget and previous.ground.own_digest == foreign.digest
    if previous is not None and current is not None and same and _same(previous, tasks):
        return f"unchanged, version {current.version} over {len(tasks)} tasks"
    loaded = base()
    router = fit_router(loaded, tasks, previous=previous, depth=depth, budget=budget, foreign=foreign)
    with tempfile.TemporaryDirectory(prefix="fleet-router-") as scratch:
        folder = Path(scratch) / "router"
        digest = save_router(folder, router)
        try:
            load_router(folder, digest=digest)
        except ArtifactError as error:
            raise ArtifactError(
                "the router that was fitted cannot be read back, so it is not registered and the champion "
                f"stays; that is a fault of taskfleet, not of your data: {error}"
            ) from error
        record = RunRecord(
            params={"tasks": ", ".join(task.name for task in tasks), "taps": str(list(router.taps))},
            metrics=router.metrics,
            tables={"tasks": [{"task": name, **asdict(fare)} for name, fare in router.fares.items()]},
            tags={"base_fingerprint": loaded.fingerprint},
        )
        info = registry.log_version(
            ROUTER,
            folder,
            record,
            {"base_fingerprint": loaded.fingerprint},
            kind="router",
            base=project.config.base,
        )
    faults = open_policy(project).router.faults(router.metrics)
    if faults:
        return (
            f"version {info.version} is held back: {'; '.join(faults)}; the champion stays. Look at it in "
            f"MLflow, change {project.config.policy}, or promote it by hand (fleet promote {ROUTER} "
            f"{info.version})"
        )
    promote(
        registry, ROUTER, info.version, how="policy", by="policy", reason="fitted over the present champions"
    )
    return f"version {info.version} ({digest[:12]}) over {len(tasks)} tasks"


def router_task(project: Project, name: str) -> RouterTask:
    """What the router learns of a task that the project declares. Raises ``InputError``."""
    manifest = project.task(name)
    rows = load_task_rows(project.root, manifest)
    prompt = task_spec(manifest).prompt
    texts = [render_job(prompt, row.fields) for row in rows.train]
    sources = [row.place for row in rows.train]
    content = json.dumps([texts, manifest.routing.examples, manifest.description], ensure_ascii=False)
    digest = hashlib.sha256(content.encode()).hexdigest()
    examples = list(manifest.routing.examples)
    try:
        return RouterTask(name, texts, examples, digest, sources, manifest.description)
    except ValueError as error:
        raise DataError(str(error)) from error


def routable(project: Project, names: Iterable[str]) -> list[RouterTask]:
    """Of these tasks those that the project still declares, with rows that can be read; sorted."""
    found = []
    for name in sorted(set(names) & set(project.task_names())):
        try:
            found.append(router_task(project, name))
        except InputError as error:
            log.warning("the router leaves out %s: %s", name, error)
    return found


def budget_of(project: Project, names: Iterable[str]) -> Budget:
    """What the project allows the router over these tasks."""
    own = {name: least for name in names if (least := project.task(name).routing.max_misroute) is not None}
    routing = project.config.routing
    return Budget(routing.max_misroute, own, routing.out_of_scope)


def foreign_jobs(project: Project) -> Foreign:
    """The project's own jobs of nobody. Raises ``InputError`` for a file that cannot be read as jobs."""
    return Foreign.of(bare_text(fields) for fields in read_foreign(project))


def _same(previous: Router, tasks: list[RouterTask]) -> bool:
    return previous.data_digests == {task.name: task.data_digest for task in tasks}
