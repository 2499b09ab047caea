"""Where the service of a project answers: said by the service while it runs, read by whoever asks it.

That it runs is seen by a lock, which ends with its process however that ends; a file that a killed one left
behind therefore deceives nobody. Knows nothing of what is asked.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from fleet.errors import ClusterError
from fleet.project import Project

LOOK_SECONDS = 1.0
"""Longest that somebody who only looks whether the lock is held holds it."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """One running service."""

    address: str
    """``http://host:port``, for a caller on the same machine."""
    pid: int
    started: float
    """Unix seconds."""
    ray: str = ""
    """``host:port`` of the Ray that it runs on."""
    fault: str = ""
    """What has ended beside it, in words; jobs are answered all the same."""


@contextmanager
def only_service(project: Project) -> Iterator[Path]:
    """Be the project's only service for the length of a ``with`` block; yields the file for ``announce``.

    Raises ``ClusterError`` while there is another one.
    """
    lock = _lock(project)
    try:
        lock.acquire(timeout=LOOK_SECONDS)
    except Timeout:
        other = _read(_file(project))
        where = "it is just starting" if other is None else f"at {other.address}, process {other.pid}"
        raise ClusterError(
            f"this project is served already ({where}): end that one first, or use it (fleet status)"
        ) from None
    try:
        yield _file(project)
    finally:
        _file(project).unlink(missing_ok=True)
        lock.release()


def announce(file: Path, address: str, ray: str = "", fault: str = "") -> None:
    """Say where the service answers, and on which Ray, published by rename."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(json.dumps(asdict(Whereabouts(address, os.getpid(), time.time(), ray, fault))))
    fresh.replace(file)


def running_service(project: Project) -> Whereabouts | None:
    """The project's service on this machine; None if none runs, or it does not answer yet."""
    found = _read(_file(project))
    if found is None:
        return None
    lock = _lock(project)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return found
    lock.release()
    return None


def local_name(host: str) -> str:
    """Under which name this machine reaches what listens at ``host``."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{name}]" if ":" in name else name


def _file(project: Project) -> Path:
    return project.state / "serving" / "service.json"


def _lock(project: Project) -> FileLock:
    folder = project.state / "serving"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "service.lock")


def _read(file: Path) -> Whereabouts | None:
    try:
        return Whereabouts(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
