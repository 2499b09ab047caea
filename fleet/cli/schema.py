"""``fleet schema``: the JSON Schema of ``task.yaml``, for editors. Made from ``fleet.manifest``."""

from __future__ import annotations

import click

from fleet.cli.invocation import Invocation, pass_invocation
from fleet.cli.output import print_json
from fleet.errors import InputError

FILE = "task.schema.json"


@click.command()
@click.option("--write", "action", flag_value="write", help=f"Write it to {FILE} beside the tasks.")
@click.option(
    "--check", "action", flag_value="check", help="Exit with 2 unless that file is as --write would make it."
)
@pass_invocation
def schema(invocation: Invocation, action: str | None) -> None:
    """Print or write the JSON Schema of task.yaml."""
    from fleet.manifest import manifest_schema, schema_is_fresh, write_schema

    if action is None:
        print_json(manifest_schema())
        return
    project = invocation.project()
    name = f"{project.config.tasks}/{FILE}"
    path = project.resolve(name)
    if action == "write":
        write_schema(path)
        click.echo(f"written: {name}")
    elif not schema_is_fresh(path):
        raise InputError(f"{name} is missing or out of date: fleet schema --write")
    else:
        click.echo(f"{name} is up to date")
