"""Versions in MLflow: log, find, resolve by alias, fetch by digest.

One registered model per task, one run and one logged model per version. Aliases are always read
live, never remembered, so one that was set by hand in the UI is obeyed at the next call. Knows
nothing of who deserves an alias (policy) or of how a champion follows another (lifecycle).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fleet.engine.digest import folder_digest
from fleet.errors import ArtifactError, DigestError, InputError, RegistryError
from fleet.registry.door import as_uri, ensure_store, enter, is_missing, is_server, speaking
from fleet.registry.package import write_model
from fleet.registry.version import Kind, VersionInfo, version_info

ROUTER = "fleet.router"
"""Registered model of the router: the dot keeps it apart from every task's name."""

_PAGE = 200
_BATCH = 500  # MLflow takes at most 1,000 metrics and 100 params in one call
_TAG_LIMIT = 4_900  # MLflow's limit for a version's tag is 5,000 characters


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What one training tells the registry beside the artifact itself."""

    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Final figures: the metric, its interval, seconds, tokens."""
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    """Name to (step, value) pairs."""
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Name to rows, shown as tables in the UI; rows of one table share their keys."""
    tags: Mapping[str, str] = field(default_factory=dict)


class Registry:
    """The door to one MLflow store. Make one per process; every method may raise ``RegistryError``.

    ``tracking_uri`` is what MLflow takes; a SQLite file is created when it is missing.
    ``artifact_root`` (folder or address) is for stores without a server; behind ``http`` the
    server decides where artifacts lie.
    """

    def __init__(
        self,
        tracking_uri: str,
        artifact_root: str | Path,
        *,
        fleet: str = "fleet",
        champion: str = "champion",
        challenger: str = "challenger",
    ) -> None:
        self.tracking_uri = tracking_uri
        self.artifact_root = as_uri(artifact_root)
        self.fleet = fleet
        self.champion_alias = champion
        self.challenger_alias = challenger
        self._seen: dict[tuple[str, int, int], VersionInfo] = {}

    @property
    def _remote(self) -> bool:
        return is_server(self.tracking_uri)

    @cached_property
    def _client(self) -> Any:
        mlflow = enter()
        ensure_store(self.tracking_uri, self.artifact_root)
        return mlflow.MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    @contextmanager
    def _asking(self, action: str) -> Iterator[Any]:
        with speaking(action, self.tracking_uri):
            yield self._client

    # ---- writing versions

    def log_version(
        self,
        task: str,
        folder: Path,
        run: RunRecord,
        tags: Mapping[str, str],
        *,
        fields: Sequence[str] = ("text",),
        base: str = "gemma-3-270m",
        kind: Kind = "expert",
    ) -> VersionInfo:
        """Register the artifact in ``folder`` with its run; sets no alias.

        ``tags`` carries what the version was made of (``manifest_digest``, ``data_digest``,
        ``base_fingerprint``, ``seal``). ``fields`` are the job's input fields and ``base`` names
        the base to look for, both for users of ``mlflow.pyfunc``.
        """
        digest = folder_digest(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        every = {**tags, "digest": digest, "size": str(size), "kind": kind, "task": task}
        every["metrics"] = json.dumps(dict(run.metrics), sort_keys=True)
        with self._asking(f"register a version of {task}") as client:
            self._ensure_model(client, task, kind)
            run_id = self._log_run(client, task, run, every)
            try:
                model = client.create_logged_model(
                    self._experiment(client), name=task.replace(".", "-"), source_run_id=run_id,
                    model_type=kind, tags={"digest": digest},
                )  # fmt: skip
                with tempfile.TemporaryDirectory(prefix="fleet-log-") as scratch:
                    content = Path(scratch) / "model"
                    write_model(content, folder, kind=kind, fields=fields, base=base, digest=digest)
                    client.log_model_artifacts(model.model_id, str(content))
                client.finalize_logged_model(model.model_id, "READY")
                # In-process, MLflow would look a models:/ address up in its global store, not in ours.
                source = model.model_uri if self._remote else model.artifact_location
                made = client.create_model_version(
                    task, source=source, run_id=run_id, model_id=model.model_id,
                    tags={key: value[:_TAG_LIMIT] for key, value in every.items()},
                )  # fmt: skip
            except BaseException:
                client.set_terminated(run_id, "FAILED")
                raise
            client.set_terminated(run_id, "FINISHED")
        return self.version(task, int(made.version))

    def _log_run(self, client: Any, task: str, run: RunRecord, tags: Mapping[str, str]) -> str:
        entities = enter().entities
        now = int(datetime.now(UTC).timestamp() * 1000)
        run_id: str = client.create_run(
            self._experiment(client), run_name=task, tags={**tags, **run.tags}
        ).info.run_id
        params = [entities.Param(key, str(value)[:6000]) for key, value in run.params.items()]
        metrics = [entities.Metric(key, float(value), now, 0) for key, value in run.metrics.items()]
        metrics += [
            entities.Metric(key, float(value), now, int(step))
            for key, points in run.curves.items()
            for step, value in points
        ]
        for start in range(0, len(params), 100):
            client.log_batch(run_id, params=params[start : start + 100])
        for start in range(0, len(metrics), _BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
        tables = {name: rows for name, rows in run.tables.items() if rows}
        for name, rows in tables.items():
            columns = list(rows[0])
            data = [[_cell(row.get(key)) for key in columns] for row in rows]
            client.log_dict(run_id, {"columns": columns, "data": data}, f"{name}.json")
        if tables:
            # What makes the UI show a table; MLflow's own log_table does the same by way of pandas.
            listed = [{"path": f"{name}.json", "type": "table"} for name in tables]
            client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(listed))
        return run_id

    def _experiment(self, client: Any) -> str:
        found = client.get_experiment_by_name(self.fleet)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(client.create_experiment(self.fleet, None if self._remote else self.artifact_root))
        except enter().exceptions.MlflowException:
            found = client.get_experiment_by_name(self.fleet)  # another process was faster
            if found is None:
                raise
            return str(found.experiment_id)

    def _ensure_model(self, client: Any, task: str, kind: Kind) -> None:
        try:
            client.create_registered_model(task, tags={"kind": kind, "fleet": self.fleet})
        except enter().exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        owner = client.get_registered_model(task).tags.get("fleet")
        if owner != self.fleet:
            raise RegistryError(
                f"the model {task} on this MLflow belongs to {owner or 'somebody else'}, not to "
                f"{self.fleet}: give this fleet another tracking_uri in fleet.yaml, or rename the task"
            )

    # ---- reading versions

    def versions(self, task: str) -> list[VersionInfo]:
        """Every version of ``task``, newest first; empty when it was never registered."""
        with self._asking(f"list the versions of {task}") as client:
            model = self._model(client, task)
            if model is None:
                return []
            named: dict[int, list[str]] = {}  # a search result carries no aliases
            for alias, number in model.aliases.items():
                named.setdefault(int(number), []).append(alias)
            found: list[VersionInfo] = []
            token = None
            while True:
                page = client.search_model_versions(f"name = '{task}'", max_results=_PAGE, page_token=token)
                found += [version_info(entry, named.get(int(entry.version), ())) for entry in page]
                token = page.token
                if not token:
                    return sorted(found, key=lambda info: -info.version)

    def version(self, task: str, number: int) -> VersionInfo:
        with self._asking(f"read version {number} of {task}") as client:
            found = client.get_model_version(task, str(number))
            return version_info(found, found.aliases)

    def numbered(self, task: str, number: int) -> VersionInfo:
        """A version that a person asked for. Raises ``InputError`` with those that are there."""
        known = {info.version: info for info in self.versions(task)}
        if number not in known:
            there = ", ".join(map(str, sorted(known))) or "none"
            raise InputError(f"{task} has no version {number}; there are: {there}")
        return known[number]

    def champion(self, task: str) -> VersionInfo | None:
        """Who the champion alias names at this moment."""
        return self._by_alias(task, self.champion_alias)

    def challenger(self, task: str) -> VersionInfo | None:
        return self._by_alias(task, self.challenger_alias)

    def _by_alias(self, task: str, alias: str) -> VersionInfo | None:
        with self._asking(f"resolve {task}@{alias}") as client:
            try:
                found = client.get_model_version_by_alias(task, alias)
            except enter().exceptions.MlflowException as error:
                if is_missing(error):
                    return None
                raise
            return version_info(found, found.aliases)

    def resolve(self, task: str, which: str | int) -> VersionInfo:
        """The version that an alias or a number names; ``RegistryError`` when there is none."""
        if isinstance(which, int) or which.isdecimal():
            return self.version(task, int(which))
        found = self._by_alias(task, which)
        if found is None:
            raise RegistryError(
                f"{task} has no version with the alias {which!r}; "
                f"train it (fleet train {task}) or set the alias (fleet promote {task})"
            )
        return found

    def champions(self) -> dict[str, VersionInfo]:
        """The champion of every task, the router's under ``ROUTER``.

        One search call; a version never seen before costs one more. Its tags are those of the
        first sight; its digest cannot change.
        """
        return self._aliased(self.champion_alias)[0]

    def challengers(self) -> dict[str, VersionInfo]:
        return self._aliased(self.challenger_alias)[0]

    def champions_and_challengers(self) -> tuple[dict[str, VersionInfo], dict[str, VersionInfo]]:
        """Both of one moment, in one search call."""
        champions, challengers = self._aliased(self.champion_alias, self.challenger_alias)
        return champions, challengers

    def tasks(self) -> list[str]:
        """Names of all registered experts of this fleet, sorted."""
        with self._asking("list the registered models") as client:
            return sorted(m.name for m in self._models(client) if m.tags.get("kind") == "expert")

    def _aliased(self, *aliases: str) -> list[dict[str, VersionInfo]]:
        with self._asking(f"list all versions with the alias {' or '.join(aliases)}") as client:
            models = sorted(self._models(client), key=lambda model: str(model.name))
            return [
                {
                    model.name: self._at_first_sight(client, model, int(model.aliases[alias]))
                    for model in models
                    if alias in model.aliases
                }
                for alias in aliases
            ]

    def _at_first_sight(self, client: Any, model: Any, number: int) -> VersionInfo:
        key = (model.name, int(model.creation_timestamp), number)
        if key not in self._seen:
            entry = client.get_model_version(model.name, str(number))
            self._seen[key] = version_info(entry, entry.aliases)
        return self._seen[key]

    def _models(self, client: Any) -> list[Any]:
        models: list[Any] = []
        token = None
        while True:
            page = client.search_registered_models(
                f"tags.fleet = '{self.fleet}'", max_results=1000, page_token=token
            )
            models += page
            token = page.token
            if not token:
                return models

    def _model(self, client: Any, task: str) -> Any:
        try:
            return client.get_registered_model(task)
        except enter().exceptions.MlflowException as error:
            if is_missing(error):
                return None
            raise

    def find(self, task: str, **tags: str) -> VersionInfo | None:
        """The newest version whose tags hold all of ``tags``: has this very training been done?"""
        matches = (i for i in self.versions(task) if all(i.tags.get(k) == v for k, v in tags.items()))
        return next(matches, None)

    # ---- aliases, tags, removal

    def set_alias(self, task: str, alias: str, version: int) -> None:
        with self._asking(f"set {task}@{alias} to version {version}") as client:
            client.set_registered_model_alias(task, alias, str(version))

    def delete_alias(self, task: str, alias: str) -> None:
        with self._asking(f"delete {task}@{alias}") as client:
            client.delete_registered_model_alias(task, alias)

    def set_tags(self, info: VersionInfo, tags: Mapping[str, str]) -> None:
        with self._asking(f"tag {info.label}") as client:
            for key, value in tags.items():
                client.set_model_version_tag(info.task, str(info.version), key, value[:_TAG_LIMIT])

    def model_tags(self, task: str) -> dict[str, str]:
        """Tags of the task's registered model; empty when there is none."""
        with self._asking(f"read the tags of {task}") as client:
            model = self._model(client, task)
            return dict(model.tags) if model else {}

    def set_model_tag(self, task: str, key: str, value: str) -> None:
        with self._asking(f"tag {task}") as client:
            client.set_registered_model_tag(task, key, value)

    def delete_version(self, info: VersionInfo) -> None:
        """Remove a version; its run and files go with MLflow's own ``mlflow gc``."""
        with self._asking(f"delete {info.label}") as client:
            client.delete_model_version(info.task, str(info.version))
            if info.run_id:
                client.delete_run(info.run_id)

    # ---- artifacts

    def fetch(self, info: VersionInfo, dest_dir: Path) -> Path:
        """The artifact's folder ``dest_dir/<digest>``, downloaded once, checked every time.

        Nothing of it is executed. Raises ``DigestError`` when the registered bytes were altered,
        ``ArtifactError`` when the version has no digest.
        """
        if not _is_digest(info.digest):
            raise ArtifactError(f"{info.label} carries no digest tag, so it was not registered by fleet")
        place = dest_dir / info.digest
        if place.is_dir():
            if _digest_of(place) == info.digest:
                return place
            shutil.rmtree(place)  # the cached copy was damaged; the registered one may be sound
        dest_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=dest_dir) as scratch:
            with self._asking(f"fetch {info.label}") as client:
                source = client.get_model_version_download_uri(info.task, str(info.version))
                got = enter().artifacts.download_artifacts(
                    artifact_uri=f"{source.rstrip('/')}/artifacts/{info.kind}",
                    dst_path=scratch,
                    tracking_uri=self.tracking_uri,
                )
            found = _digest_of(Path(got))
            if found != info.digest:
                raise DigestError(
                    f"{info.label} was altered after it was registered: its digest is {found[:12]}, "
                    f"registered was {info.digest[:12]}; "
                    f"roll back (fleet rollback {info.task}) or train it again"
                )
            try:
                Path(got).rename(place)
            except OSError:
                if not place.is_dir():  # else another process published the same bytes first
                    raise
        return place


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else json.dumps(value, ensure_ascii=False)


def _digest_of(folder: Path) -> str:
    try:
        return folder_digest(folder)
    except ValueError:
        return "unreadable"


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
