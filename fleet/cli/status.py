"""``fleet status``: what the registry holds of every task, what has changed since, and what is served."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from fleet.cli.invocation import Invocation, pass_invocation
from fleet.cli.output import (
    NONE,
    cell,
    duration,
    interval,
    json_option,
    print_json,
    print_table,
    size,
    table,
)
from fleet.cli.service import headline, service_table, view_service
from fleet.errors import InputError, RegistryError
from fleet.plain import plain

if TYPE_CHECKING:
    from rich.table import Table

    from fleet.cli.service import ServiceView
    from fleet.project import Project
    from fleet.registry.status import TaskStatus
    from fleet.registry.version import VersionInfo

COLUMNS = ("task", "champion", "metric", "value [95 %]", "age", "size", "challenger", "changed since")


@click.command()
@json_option
@click.option(
    "--address", metavar="URL", help="Ask the service there, not the one that fleet serve runs here."
)
@pass_invocation
def status(invocation: Invocation, as_json: bool, address: str | None) -> None:
    """Show champions, what has changed since, and the service.

    "changed since" names manifest or data when they are no longer what the champion was trained with. A
    service that wants an API key is given FLEET_API_KEY.
    """
    from fleet.registry.status import fleet_status
    from fleet.registry.store import ROUTER
    from fleet.stores import open_registry

    project = invocation.project()
    registry = open_registry(project)
    service = view_service(project, address)
    declared, notes = declared_tags(project)
    try:
        tasks = fleet_status(registry, declared)
        router = registry.champion(ROUTER)
    except RegistryError:
        if not as_json:  # what goes on without the registry is worth knowing just then
            show_service(service)
        raise
    if as_json:
        listed = [{**plain(task), "note": notes.get(task.task)} for task in tasks]
        print_json({"tasks": listed, "router": router, "service": service})
        _end(service, address)
        return
    if tasks:
        print_table(status_table(tasks, notes, datetime.now(UTC)))
    else:
        click.echo(f"there are no tasks in {project.config.tasks}/ and none is registered")
    trained = any(task.champion for task in tasks)
    if not trained and tasks:
        click.echo("no task has a champion yet: fleet train-all")
    none = f"none yet (fleet {'router fit' if trained else 'train-all'})"
    click.echo("router: " + (none if router is None else f"version {router.version}"))
    show_service(service)
    _end(service, address)


def _end(service: ServiceView | None, address: str | None) -> None:
    """A failure, when the service that somebody has named does not answer."""
    if address is not None and (service is None or service.state is None):
        sys.exit(1)


def show_service(service: ServiceView | None) -> None:
    if service is None:
        return
    click.echo()
    click.echo(headline(service))
    if service.state is not None and service.state["experts"]:
        print_table(service_table(service.state))


def declared_tags(project: Project) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Per declared task the tags that a version trained now would carry; and what is wrong with some."""
    from fleet.data.rows import load_task_rows

    tags: dict[str, dict[str, str]] = {}
    notes: dict[str, str] = {}
    for name in project.task_names():
        tags[name] = {}
        try:
            manifest = project.task(name)
            tags[name]["manifest_digest"] = manifest.digest
            tags[name]["data_digest"] = load_task_rows(project.root, manifest).digest
        except InputError:
            notes[name] = "files at fault (fleet check)"
    return tags, notes


def status_table(tasks: Sequence[TaskStatus], notes: dict[str, str], now: datetime) -> Table:
    made = table(COLUMNS, right=("value [95 %]", "age", "size"))
    for task in tasks:
        info, days = task.champion, task.age_days(now)
        metric, value = ("", NONE) if info is None else _figure(info)
        changed = [notes[task.task]] if task.task in notes else [*task.drift]
        if not task.declared:
            changed.append("no longer declared")
        made.add_row(
            cell(task.task),
            NONE if info is None else f"version {info.version}",
            cell(metric or NONE),
            value,
            NONE if days is None else duration(days * 86_400),
            NONE if info is None else size(info.size),
            cell(_challenger(task.challenger)),
            cell(", ".join(changed) or NONE, "yellow" if changed else ""),
        )
    return made


def _figure(info: VersionInfo) -> tuple[str, str]:
    metric = info.tags.get("metric", "")
    figures = [info.metrics.get(f"{metric}{suffix}", math.nan) for suffix in ("", "_low", "_high")]
    return metric, interval(*figures)


def _challenger(info: VersionInfo | None) -> str:
    if info is None:
        return NONE
    verdict = info.tags.get("verdict", "")
    return f"version {info.version}" + (f" ({verdict})" if verdict else "")
