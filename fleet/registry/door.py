"""How MLflow is entered: quiet, without telemetry, with its errors turned into ours.

Knows nothing of tasks or versions. ``import mlflow`` happens inside ``enter``, because it costs
two seconds and because its telemetry must be switched off before it: the variables below are set
only where the user has not set them, so ``MLFLOW_DISABLE_TELEMETRY=false`` still opts in.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from fleet.errors import RegistryError

log = logging.getLogger(__name__)

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # not "1": MLflow compares with the word
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # MLflow's own default retries a dead server for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}

_NOT_FOUND = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


def enter() -> Any:
    """Return the ``mlflow`` module with ``mlflow.pyfunc`` loaded."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        # Importing mlflow.pyfunc warns about its own dependencies; none of it is ours to mend.
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.pyfunc
    return mlflow


def redact(uri: str) -> str:
    """``uri`` without the user and password it may carry."""
    return re.sub(r"(?<=://)[^/@]*@", "***@", uri)


class _Retries(logging.Filter):
    """Says once that retries go on, and leaves urllib3's warning of each to the debug level.

    A filter holds for all threads. Before urllib3 2 nothing told these warnings from others: they pass.
    """

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = redact(uri)
        self._said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if "__urllib3-retry-warning" not in record.__dict__:  # which urllib3 sets so that pip can tell it too
            return True
        if not self._said:
            self._said = True
            log.warning("MLflow at %s does not answer, trying again", self._uri)
        log.debug("%s", redact(record.getMessage()))
        return False


@contextmanager
def _quiet_retries(uri: str) -> Iterator[None]:
    logger, retries = logging.getLogger("urllib3.connectionpool"), _Retries(uri)
    logger.addFilter(retries)
    try:
        yield
    finally:
        logger.removeFilter(retries)


@contextmanager
def speaking(action: str, uri: str) -> Iterator[None]:
    """Run MLflow calls; whatever goes wrong on its side leaves as a ``RegistryError``.

    Of retries on the way there only the first is told.
    """
    mlflow = enter()
    import requests
    import sqlalchemy.exc

    try:
        with _quiet_retries(uri):
            yield
    except mlflow.exceptions.MlflowException as error:
        if isinstance(error.__context__, requests.RequestException):
            raise _unreachable(uri, action, error.__context__) from error
        raise RegistryError(f"MLflow at {redact(uri)} could not {action}: {_first_line(error)}") from error
    except (requests.RequestException, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise _unreachable(uri, action, error) from error


def _unreachable(uri: str, action: str, error: BaseException) -> RegistryError:
    # Inside urllib3's many words, what the operating system said.
    caused = re.search(r"\(Caused by (.*)\)$", str(error))
    reason = redact(caused[1])[:300] if caused else _first_line(error)
    return RegistryError(
        f"MLflow at {redact(uri)} cannot be reached, so fleet could not {action}: {reason}; "
        "check tracking_uri in fleet.yaml and that the server or the folder is there"
    )


def is_missing(error: Any) -> bool:
    """Whether an ``MlflowException`` says that a model, version or alias does not exist."""
    return getattr(error, "error_code", "") in _NOT_FOUND


def _first_line(error: BaseException) -> str:
    text = redact(str(error)).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def as_uri(place: str | Path) -> str:
    """A folder as ``file://``; what already has a scheme stays as it is."""
    return str(place) if "://" in str(place) else Path(place).resolve().as_uri()


def is_server(tracking_uri: str) -> bool:
    """Whether MLflow answers there over HTTP, instead of from within this process."""
    return tracking_uri.startswith(("http://", "https://"))


def ensure_store(tracking_uri: str, artifact_root: str) -> None:
    """Make an in-process store ready: load MLflow's tables, create a missing SQLite file.

    The migrations run on a temporary name under a lock and are published by rename: a process
    killed in the middle, or two that start together, never leave half a schema behind.
    """
    if is_server(tracking_uri):
        return
    enter()
    with warnings.catch_warnings():
        # MLflow's table definitions use what SQLAlchemy has deprecated.
        warnings.simplefilter("ignore")
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
        from sqlalchemy.orm import configure_mappers

        configure_mappers()
    path = sqlite_path(tracking_uri)
    if path is None or path.exists():
        return
    with speaking("create its store", tracking_uri):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            if path.exists():
                return
            fresh = path.with_name(path.name + ".new")
            for suffix in ("", "-journal", "-wal", "-shm"):  # a killed writer's journal would be replayed
                fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
            SqlAlchemyStore(f"sqlite:///{fresh}", artifact_root).engine.dispose()
            fresh.rename(path)


def sqlite_path(tracking_uri: str) -> Path | None:
    """The database file of a ``sqlite:///`` address, else None."""
    prefix = "sqlite:///"
    if not tracking_uri.startswith(prefix) or tracking_uri == prefix:
        return None
    return Path(tracking_uri.removeprefix(prefix).partition("?")[0])
