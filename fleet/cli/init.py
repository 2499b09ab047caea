"""``fleet init``: a new fleet to start from."""

from __future__ import annotations

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
    new or empty; its name becomes the fleet's.
    """
    copied = copy_starter(name, tasks)
    click.echo(f"{name}: a fleet with {len(copied)} tasks: {', '.join(copied)}")
    click.echo(f"next: cd {name} && fleet check && fleet train-all")
