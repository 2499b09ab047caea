"""The starter fleet that ``fleet init`` copies. Knows what belongs to it, not what is in it.

The repository's own ``fleet.yaml``, ``tasks/`` and ``registry/`` are the one source. A wheel carries
them as ``fleet/starter`` (``setup.py``); an editable install finds them beside the package.
"""

from __future__ import annotations

import importlib.resources
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fleet.errors import FleetError, InputError, suggest

CONFIG = "fleet.yaml"
TASKS = "tasks"
SHARED = ("registry/policy.yaml", "registry/README.md", "tasks/task.schema.json")
NAME = re.compile(r"[a-z][a-z0-9-]{1,62}")


def starter_folder() -> Path:
    """The folder that holds the starter fleet. Raises ``FleetError`` when the installation lacks it."""
    package = Path(str(importlib.resources.files("fleet")))
    for place in (package / "starter", package.parent):
        if (place / CONFIG).is_file() and (place / TASKS).is_dir():
            return place
    raise FleetError("this installation lacks the starter fleet: install taskfleet again")


def starter_tasks() -> list[str]:
    """Names of the starter tasks, sorted."""
    return sorted(path.parent.name for path in (starter_folder() / TASKS).glob("*/task.yaml"))


def copy_starter(target: Path, tasks: Sequence[str]) -> list[str]:
    """Make ``target`` a fleet with these starter tasks (none named: all); returns their names.

    Raises ``InputError`` when the name is no fleet's name, something is in the way, or a task is unknown;
    ``FleetError`` when the machine does not let it be written.
    """
    target = target.absolute()
    if not NAME.fullmatch(target.name):
        raise InputError(
            f"{target.name!r} cannot name a fleet, and the folder's last part becomes the fleet's name: "
            "use 2 to 63 small letters, digits and hyphens, a letter first"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder: choose another name, or empty it")
    names = _chosen(tasks)
    try:
        _publish(target, names)
    except OSError as error:
        raise FleetError(f"{target} cannot be written ({error.strerror or error}): name another") from error
    return names


def _publish(target: Path, names: Sequence[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fleet-init-", dir=target) as scratch:
        staged = Path(scratch)
        _stage(starter_folder(), staged, target.name, names)
        # fleet.yaml makes it a fleet, so it comes last.
        for path in sorted(staged.iterdir(), key=lambda path: path.name == CONFIG):
            path.rename(target / path.name)


def _chosen(tasks: Sequence[str]) -> list[str]:
    known = starter_tasks()
    for task in tasks:
        if task not in known:
            raise InputError(f"there is no starter task called {task}; {suggest(task, known)}")
    return [name for name in known if name in tasks] if tasks else known


def _stage(source: Path, staged: Path, name: str, tasks: Sequence[str]) -> None:
    for task in tasks:
        shutil.copytree(source / TASKS / task, staged / TASKS / task, ignore=shutil.ignore_patterns(".*"))
    for file in SHARED:
        if (source / file).is_file():
            (staged / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, staged / file)
    (staged / ".gitignore").write_text("/.fleet/\n", encoding="utf-8")
    config = (source / CONFIG).read_text(encoding="utf-8")
    # The comment above the settings speaks of the repository that they come from.
    settings = re.sub(r"\A(?:#.*\n)+", "", config)
    named = re.sub(r"^name:.*$", f"name: {name}", settings, count=1, flags=re.MULTILINE)
    heading = "# What all tasks of this fleet share.\n"
    (staged / CONFIG).write_text(heading + named, encoding="utf-8")
