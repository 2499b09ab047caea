"""Where a fleet lives: the project root, its settings, its tasks, its paths.

Knows nothing of what is done there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fleet.config import FleetConfig, load_config
from fleet.errors import Fault, ManifestError, ProjectError, suggest
from fleet.manifest import Manifest, load_manifest

CONFIG_FILE = "fleet.yaml"
TASK_FILE = "task.yaml"


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with a ``fleet.yaml``, and what that says."""

    root: Path
    config: FleetConfig

    @classmethod
    def find(cls, root: str | Path | None = None) -> Project:
        """The project at ``root``, else at ``FLEET_ROOT``, else at the nearest parent with ``fleet.yaml``.

        Raises ``ProjectError`` when there is none, ``ManifestError`` when ``fleet.yaml`` is at fault.
        """
        named = root or os.environ.get("FLEET_ROOT")
        if named:
            folder = Path(named).expanduser().resolve()
            if not (folder / CONFIG_FILE).is_file():
                advice = "name a fleet's folder, or make one (fleet init)"
                raise ProjectError(f"{named} holds no {CONFIG_FILE}: {advice}")
        else:
            here = Path.cwd()
            found = next((p for p in (here, *here.parents) if (p / CONFIG_FILE).is_file()), None)
            if found is None:
                raise ProjectError(
                    f"neither this folder nor one above it holds a {CONFIG_FILE}: "
                    "go to a fleet's folder, name it (--root), or make one (fleet init my-fleet)"
                )
            folder = found
        return cls(folder, load_config(folder / CONFIG_FILE))

    def task_names(self) -> list[str]:
        """Every folder of ``tasks/`` that holds a manifest, sorted."""
        folder = self.resolve(self.config.tasks)
        return sorted(path.parent.name for path in folder.glob(f"*/{TASK_FILE}"))

    def task(self, name: str) -> Manifest:
        """One task's manifest. Raises ``ManifestError``, with the nearest name for an unknown task."""
        names = self.task_names()
        if name not in names:
            hint = suggest(name, names)
            raise ManifestError(f"there is no task called {name} in {self.config.tasks}/; {hint}")
        return load_manifest(self.resolve(f"{self.config.tasks}/{name}/{TASK_FILE}"), self.root)

    def tasks(self) -> dict[str, Manifest]:
        """Every manifest by name, sorted. Raises ``ManifestError`` with the faults of all of them."""
        found: dict[str, Manifest] = {}
        faults: list[Fault] = []
        for name in self.task_names():
            try:
                found[name] = self.task(name)
            except ManifestError as error:
                faults += error.faults
        if faults:
            raise ManifestError(faults=faults)
        return found

    def resolve(self, path: str | Path) -> Path:
        """A path below the root, links followed. Raises ``ProjectError`` for one that leaves it."""
        resolved = (self.root / path).resolve()
        if not resolved.is_relative_to(self.root.resolve()):
            raise ProjectError(f"{path} leaves the project {self.root.name}: keep files inside it")
        return resolved

    @property
    def state(self) -> Path:
        """What commands leave behind: database, artifacts, storage."""
        return self.root / ".fleet"

    @property
    def tracking_uri(self) -> str:
        return self.config.tracking_uri or f"sqlite:///{self.state / 'mlflow.db'}"

    @property
    def artifact_root(self) -> str:
        return str(self.state / "artifacts")

    @property
    def storage(self) -> str:
        """Folder or fsspec address; a relative folder is below the root."""
        address = self.config.storage
        return address if "://" in address else str(self.root / Path(address).expanduser())

    @property
    def cache_dir(self) -> Path:
        """Where converted bases are kept on this machine: ``FLEET_CACHE``, else the user's cache."""
        return Path(os.environ.get("FLEET_CACHE") or "~/.cache/taskfleet").expanduser()
