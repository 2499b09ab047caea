"""``fleet keys``: who may send jobs to a service. The file is ``fleet.web.keys``'s."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.cli.invocation import Invocation, pass_invocation
from fleet.cli.output import NONE, cell, json_option, print_json, print_table, table
from fleet.errors import suggest

if TYPE_CHECKING:
    from fleet.web.keys import Key

_file = click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the keys are; the project's .fleet/keys.json if not given.",
)


@click.group()
def keys() -> None:
    """Make and revoke API keys.

    A running service sees within seconds what has changed.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--task", "tasks", multiple=True, help="Let it ask this task and no other; may be given several times."
)
@click.option("--per-minute", type=click.IntRange(min=1), help="Most jobs a minute; no limit if not given.")
@click.option("--days", type=click.IntRange(min=1), help="How long it is good for; for ever if not given.")
@click.option("--metrics", is_flag=True, help="For Prometheus: it reads /metrics, and sends no jobs.")
@_file
@pass_invocation
def new(
    invocation: Invocation,
    name: str,
    tasks: tuple[str, ...],
    per_minute: int | None,
    days: int | None,
    metrics: bool,
    file: Path | None,
) -> None:
    """Make a key called NAME and print its secret, this once.

    The name may be seen in logs and metrics. The secret is kept nowhere; send it as
    `Authorization: Bearer SECRET`.
    """
    from fleet.web.keys import add_key

    if metrics and (tasks or per_minute):
        raise click.UsageError("a key with --metrics sends no jobs: leave out --task and --per-minute")
    for task in tasks:
        _note_undeclared(invocation, task)
    secret = add_key(
        _path(invocation, file),
        name,
        per_minute=per_minute,
        tasks=tuple(dict.fromkeys(tasks)) or None,
        metrics=metrics,
        expires=None if days is None else datetime.now(UTC) + timedelta(days=days),
    )
    click.echo(secret)
    click.echo("this is the only time that it is shown", err=True)


@keys.command("list")
@_file
@json_option
@pass_invocation
def show(invocation: Invocation, file: Path | None, as_json: bool) -> None:
    """Show the keys, without their secrets."""
    from fleet.web.keys import read_keys

    path = _path(invocation, file)
    found = read_keys(path) if path.exists() else ()
    if as_json:
        print_json([key.model_dump(exclude={"sha256"}) for key in found])
    elif not found:
        click.echo("there are no API keys: fleet keys new NAME")
    else:
        made = table(("name", "asks", "a minute", "made", "good until"), right=("a minute",))
        for key in found:
            made.add_row(*map(cell, _row(key)))
        print_table(made)


@keys.command()
@click.argument("name")
@_file
@pass_invocation
def revoke(invocation: Invocation, name: str, file: Path | None) -> None:
    """Take the key NAME away."""
    from fleet.web.keys import revoke_key

    revoke_key(_path(invocation, file), name)
    click.echo(f"{name}: is accepted no longer")


def _path(invocation: Invocation, file: Path | None) -> Path:
    from fleet.web.keys import KEYS_FILE

    return invocation.project().root / KEYS_FILE if file is None else file.expanduser()


def _note_undeclared(invocation: Invocation, task: str) -> None:
    """Its expert may have been registered from elsewhere, so this is no error."""
    declared = invocation.project().task_names()
    if task not in declared:
        click.echo(f"note: no task called {task} is declared here; {suggest(task, declared)}", err=True)


def _row(key: Key) -> tuple[str, ...]:
    asks = "all tasks" if key.tasks is None else ", ".join(key.tasks)
    until = NONE if key.expires is None else f"{key.expires:%Y-%m-%d}"
    if key.expired(datetime.now(UTC)):
        until += " (over)"
    return (
        key.name,
        "metrics only" if key.metrics else asks,
        NONE if key.per_minute is None else str(key.per_minute),
        f"{key.created:%Y-%m-%d}",
        until,
    )
