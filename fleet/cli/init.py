"""``fleet init``: a new fleet to start from."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from fleet.cli.starter import copy_starter


@click.command()
@click.argument("name", type=click.Path(path_type=Path))
@click.option(
    "--task", "tasks", multiple=True, help="Copy only this starter task; may be given several times."
)
def init(name: Path, tasks: tuple[str, ...]) -> None:
    """Make NAME a fleet with starter tasks.

    Copies fleet.yaml, the promotion policy and the starter tasks with their rows. The folder must be
    new or empty; its name, or the last part of it,
    becomes the fleet's.
    """
    copied = copy_starter(name, tasks)
    count = f"{len(copied)} task{'' if len(copied) == 1 else 's'}"
    click.echo(f"{name.absolute().name}: a fleet with {count}: {', '.join(copied)}")
    go = "" if name.absolute() == Path.cwd() else f"cd {shlex.quote(str(name))} && "
    click.echo(f"next: {go}fleet check && fleet train-all")
