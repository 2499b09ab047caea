"""``fleet promote`` and ``fleet rollback``: a person's word on who is champion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fleet.cli.invocation import Invocation, pass_invocation
from fleet.cli.output import json_option, print_json
from fleet.errors import InputError, suggest
from fleet.plain import plain

if TYPE_CHECKING:
    from fleet.registry.lifecycle import Change
    from fleet.registry.store import Registry

_by = click.option("--by", default="", help="Who decides; the user of this machine if not given.")
_reason = click.option("--reason", default="", help="Why; kept with the version.")


@click.command()
@click.argument("task")
@click.argument("version", type=click.IntRange(min=1), required=False)
@_reason
@_by
@json_option
@pass_invocation
def promote(
    invocation: Invocation, task: str, version: int | None, reason: str, by: str, as_json: bool
) -> None:
    """Make a version of TASK its champion.

    Without VERSION that is the challenger."""
    from fleet.registry import lifecycle

    registry = _registry(invocation, task)
    if version is not None:
        registry.numbered(task, version)
    _show(lifecycle.promote(registry, task, version, by=by, reason=reason), as_json)


@click.command()
@click.argument("task")
@_reason
@_by
@json_option
@pass_invocation
def rollback(invocation: Invocation, task: str, reason: str, by: str, as_json: bool) -> None:
    """Return TASK to its champion before."""
    from fleet.registry import lifecycle

    registry = _registry(invocation, task)
    _show(lifecycle.rollback(registry, task, by=by, reason=reason), as_json)


def _registry(invocation: Invocation, task: str) -> Registry:
    """The project's registry, once it is known to hold versions of ``task``."""
    from fleet.stores import open_registry

    project = invocation.project()
    registry = open_registry(project)
    known, declared = registry.tasks(), project.task_names()
    if task in known:
        return registry
    if task in declared:
        raise InputError(f"{task} has no version yet: fleet train {task}")
    raise InputError(f"there is no task called {task}; {suggest(task, {*known, *declared})}")


def _show(change: Change, as_json: bool) -> None:
    from fleet.registry.store import ROUTER

    if as_json:
        print_json({**plain(change), "changed": change.changed})
        return
    if not change.changed:
        click.echo(f"{change.task}: version {change.after} is champion already")
        return
    before = "in nobody's place" if change.before is None else f"in place of version {change.before}"
    click.echo(f"{change.task}: version {change.after} is now champion, {before}")
    if change.before is None and change.task != ROUTER:
        click.echo("the router does not know this task yet: fleet router fit")
