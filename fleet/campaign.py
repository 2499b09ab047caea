"""``train-all`` from manifests to champions and a fitted router; rendering is the command line's.

What is done is not done again: a version with a training's key is the proof. What fails is a row of
the report and stops nothing else. Nothing is lost by an interruption: outcomes lie in storage,
checkpoints beside them, versions in the registry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

from fleet.assignment import Assignment, TaskOutcome, assign, outcome_name
from fleet.cluster.session import connect
from fleet.cluster.training import train_on_cluster
from fleet.data.lint import lint_task
from fleet.data.rows import TaskRows, load_task_rows
from fleet.engine.base import Base
from fleet.engine.base_folder import fingerprint
from fleet.engine.train import Progress
from fleet.errors import ArtifactError, DataError, FleetError, InputError
from fleet.foreign import read_foreign
from fleet.manifest import Manifest
from fleet.project import Project
from fleet.recipe import examples
from fleet.registry.lifecycle import prune
from fleet.registry.policy import Policy
from fleet.registry.store import Registry
from fleet.registry.version import VersionInfo
from fleet.release import VERDICT_TAG, Release, judge, register
from fleet.router_release import refit_router
from fleet.stores import artifact_cache, base_folder, open_base, open_policy, open_registry, open_storage

State = Literal["trained", "unchanged", "failed"]
Only = Literal["failed", "changed"]
LAST_FILE = "last-trained.json"


class Observer(Protocol):
    """Who watches a campaign; calls come from one thread and must return soon."""

    def started(self, tasks: list[str]) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def outcome(self, outcome: TaskOutcome) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One task's line at the end; figures are NaN where there is none."""

    task: str
    state: State
    version: int | None = None
    metric: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    champion_value: float = math.nan
    baseline_value: float = math.nan
    verdict: str = ""
    """``promoted``, ``passed``, ``held``; empty when nothing was judged."""
    reason: str = ""
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CampaignReport:
    rows: tuple[ReportRow, ...]
    router: str
    """What became of the router, in a sentence."""

    @property
    def failed(self) -> bool:
        return any(row.state == "failed" for row in self.rows)


def run_campaign(
    project: Project,
    names: Sequence[str],
    observer: Observer,
    *,
    address: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    only: Only | None = None,
) -> CampaignReport:
    """Train, register, judge and route the named tasks (none named: all).

    ``KeyboardInterrupt`` passes through with everything resumable. Raises ``FleetError`` when
    nothing can be done at all: no base, no registry, no cluster, unknown task.
    """
    return _Campaign(project, observer).run(names, address, workers, threads, only)


class _Campaign:
    def __init__(self, project: Project, observer: Observer) -> None:
        self.project = project
        self.observer = observer
        self.policy: Policy = open_policy(project)
        read_foreign(project)  # or raise, before anything is trained
        self.registry: Registry = open_registry(project, self.policy)
        self.storage = open_storage(project)
        self.rows: dict[str, ReportRow] = {}
        self.made: dict[str, tuple[TaskOutcome, VersionInfo]] = {}
        self.manifests: dict[str, Manifest] = {}
        self.data: dict[str, TaskRows] = {}

    @cached_property
    def base(self) -> Base:
        return open_base(self.project)

    def run(
        self,
        names: Sequence[str],
        address: str | None,
        workers: int | None,
        threads: int | None,
        only: Only | None,
    ) -> CampaignReport:
        self._load(names)
        self.observer.note(f"base: {self.project.config.base}")
        folder = base_folder(self.project)
        todo = self._todo(fingerprint(folder), only)
        try:
            if todo:
                self._train(todo, address, workers, threads)
            self._judge()
        finally:
            self._remember()
        router = self._fit_router()
        return CampaignReport(tuple(self.rows[name] for name in sorted(self.rows)), router)

    def _load(self, names: Sequence[str]) -> None:
        """Manifests and rows; a task whose files are at fault is a failed row."""
        wanted = list(names) or self.project.task_names()
        if not wanted:
            raise InputError(
                f"there are no tasks in {self.project.config.tasks}/; fleet init copies starter tasks"
            )
        for name in wanted:
            try:
                manifest = self.project.task(name)
                rows = load_task_rows(self.project.root, manifest)
                faults = [f for f in lint_task(manifest, rows, count_tokens=None) if f.severity == "error"]
                if faults:
                    raise DataError(faults=faults[:5])
            except InputError as error:
                if names and name not in self.project.task_names():
                    raise
                self._fail(name, str(error))
                continue
            self.manifests[name] = manifest
            self.data[name] = rows

    def _todo(self, base: str, only: Only | None) -> list[Assignment]:
        failed_before = self._failed_before()
        todo: list[Assignment] = []
        for name, manifest in self.manifests.items():
            assignment = assign(manifest, self.data[name], base)
            known = self.registry.find(name, training_key=assignment.key)
            if known is not None and VERDICT_TAG in known.tags:
                self.rows[name] = _unchanged(manifest, known)
            elif only == "failed" and name not in failed_before:
                reason = "not among those that failed when they were last trained"
                self.rows[name] = ReportRow(name, "unchanged", reason=reason)
            elif only == "changed" and not self.registry.versions(name):
                reason = "never trained, so nothing has changed"
                self.rows[name] = ReportRow(name, "unchanged", reason=reason)
            else:
                todo.append(assignment)
        for row in self.rows.values():
            if row.state == "unchanged":
                self.observer.note(f"{row.task}: nothing to do, {row.reason}")
        return todo

    def _train(
        self, todo: Sequence[Assignment], address: str | None, workers: int | None, threads: int | None
    ) -> None:
        self.observer.started([assignment.task for assignment in todo])
        training = self.project.config.training
        with connect(address, telemetry=self.project.config.telemetry) as session:
            train_on_cluster(
                session,
                todo,
                base_name=self.project.config.base,
                root=self.project.root,
                cache_dir=self.project.cache_dir,
                storage=self.project.storage,
                workers=workers or training.workers,
                threads=threads or training.threads,
                checkpoint_seconds=training.checkpoint_seconds,
                max_retries=training.max_retries,
                on_progress=self.observer.progress,
                on_outcome=self._arrived,
            )

    def _arrived(self, outcome: TaskOutcome) -> None:
        """Register at once: an interruption later loses nothing."""
        if outcome.error is not None:
            self._fail(outcome.task, outcome.error, outcome.seconds)
        else:
            try:
                manifest = self.manifests[outcome.task]
                info = register(
                    self.registry,
                    self.storage,
                    self.policy,
                    outcome,
                    self.project.config.base,
                    manifest.input,
                )
                self.made[outcome.task] = (outcome, info)
            except FleetError as error:
                if isinstance(error, ArtifactError):
                    # What storage holds is damaged: the next run must train anew and not find it again.
                    self.storage.remove(outcome_name(outcome.task, outcome.key))
                self._fail(outcome.task, str(error), outcome.seconds)
        self.observer.outcome(outcome)

    def _judge(self) -> None:
        evaluation = {name: examples(self.data[name].eval) for name in self.made}
        releases = judge(
            self.registry,
            self.policy,
            list(self.made.values()),
            self.manifests,
            evaluation,
            base=lambda: self.base,
            cache=artifact_cache(self.project),
        )
        for release in releases:
            prune(self.registry, release.outcome.task, self.policy.retention.keep)
            self.rows[release.outcome.task] = _trained(self.manifests[release.outcome.task], release)

    def _fit_router(self) -> str:
        self.observer.note("router: fitting")
        try:
            return refit_router(self.project, self.registry, lambda: self.base)
        except FleetError as error:
            return f"not refitted: {error}"

    def _fail(self, task: str, error: str, seconds: float = 0.0) -> None:
        self.rows[task] = ReportRow(task, "failed", seconds=seconds, error=error, reason=error)

    def _failed_before(self) -> set[str]:
        return {task for task, state in self._last().items() if state == "failed"}

    def _last(self) -> dict[str, str]:
        """What became of each task when it was last trained here."""
        path = self.project.state / LAST_FILE
        if not path.is_file():
            return {}
        states: dict[str, str] = json.loads(path.read_text())
        return states

    def _remember(self) -> None:
        """Write down what this run knows by now; tasks that it was not about keep their word."""
        path = self.project.state / LAST_FILE
        partial = path.with_name(f".{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {**self._last(), **{row.task: row.state for row in self.rows.values()}}
        partial.write_text(json.dumps(known, indent=1))
        partial.replace(path)


def _unchanged(manifest: Manifest, known: VersionInfo) -> ReportRow:
    metric = manifest.metric
    return ReportRow(
        task=known.task,
        state="unchanged",
        version=known.version,
        metric=metric,
        value=known.metrics.get(metric, math.nan),
        low=known.metrics.get(f"{metric}_low", math.nan),
        high=known.metrics.get(f"{metric}_high", math.nan),
        baseline_value=known.metrics.get(f"baseline_{metric}", math.nan),
        verdict=known.tags.get(VERDICT_TAG, ""),
        reason=f"same manifest, data and base as version {known.version}",
    )


def _trained(manifest: Manifest, release: Release) -> ReportRow:
    metrics, verdict = release.outcome.metrics, release.verdict
    row = _unchanged(manifest, release.info)
    return replace(
        row,
        state="trained",
        value=metrics[manifest.metric],
        champion_value=math.nan if release.champion is None else release.champion.value,
        verdict=verdict.word,
        reason="; ".join(verdict.reasons),
        seconds=release.outcome.seconds,
    )
