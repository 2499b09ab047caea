"""Faults of ``fleet.yaml`` that only show outside of it: a base, a storage or a store that cannot be.

Looks no further than the name, the project's folders and what is installed; asks no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from fleet.config import BUILT_IN_BASES
from fleet.errors import Fault, suggest
from fleet.project import CONFIG_FILE, Project
from fleet.yaml_lines import shorten

__all__ = ["setting_faults"]

STORES = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://.+|https?://.+|file:.+|databricks(://.*)?")
"""What MLflow takes as a tracking URI."""


def setting_faults(project: Project) -> Iterator[Fault]:
    """Every setting with which a training would be refused."""
    for field, rule, message in (
        ("base", "unknown-base", _base(project)),
        ("storage", "bad-storage", _storage(project)),
        ("tracking_uri", "bad-tracking-uri", _tracking_uri(project.config.tracking_uri)),
    ):
        if message:
            # An address may carry a password.
            value = re.sub(r"//[^/]*@", "//...@", getattr(project.config, field))
            yield Fault(rule, message, CONFIG_FILE, project.config.line_of(field), field, shorten(value))


def _base(project: Project) -> str:
    name = project.config.base
    hub_id = "/" in name and not name.startswith((".", "/", "~"))
    if name in BUILT_IN_BASES or hub_id or (project.root / Path(name).expanduser()).is_dir():
        return ""
    hint = suggest(name, BUILT_IN_BASES).removesuffix("?")
    return f"is no built-in base ({hint}), no hub id (owner/model) and no folder below the project"


def _storage(project: Project) -> str:
    address = project.config.storage
    scheme, found, _ = address.partition("://")
    if found:
        from fsspec import get_filesystem_class

        try:
            get_filesystem_class(scheme)
        except (ValueError, ImportError) as error:
            return f"cannot be opened ({error}): name a folder, or install what opens such an address"
        return ""
    folder = Path(address).expanduser()
    if folder.is_absolute() or (project.root / folder).resolve().is_relative_to(project.root.resolve()):
        return ""
    return "leads out of the project: write an absolute path, a folder inside it or an fsspec address"


def _tracking_uri(uri: str) -> str:
    if not uri or STORES.fullmatch(uri):
        return ""
    known = "sqlite, postgresql, mysql, mssql (each also with +driver), http, https, file, databricks"
    return f"is nothing that MLflow opens: leave it empty, or write one that begins with {known}"
