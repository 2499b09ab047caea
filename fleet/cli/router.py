"""``fleet router``: what is done to the router by hand."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import click

from fleet.cli.invocation import Invocation, pass_invocation
from fleet.cli.output import NONE, cell, json_option, print_json, print_table, table
from fleet.errors import InputError

if TYPE_CHECKING:
    from fleet.router_trial import Trial
    from fleet.routing.whatif import WhatIf

NOBODY = "(nobody)"
SHOWN = 3
"""Reasons that are given for jobs of a file which were left out."""


@click.group()
def router() -> None:
    """Fit the router, which finds the task of a job, or try a task."""


@router.command()
@pass_invocation
def fit(invocation: Invocation) -> None:
    """Fit the router over the present champions, register it and make it champion.

    Training does this by itself; it is needed after a promotion by hand of a task's first version.
    """
    from fleet.registry.store import ROUTER
    from fleet.router_release import refit_router
    from fleet.stores import open_base, open_registry

    project = invocation.project()
    registry = open_registry(project)
    if not registry.champions().keys() - {ROUTER}:
        raise InputError("no task has a champion yet, so there is nothing to route to: fleet train-all")
    click.echo(f"router: {refit_router(project, registry, lambda: open_base(project))}")


@router.command("what-if")
@click.argument("task")
@click.option(
    "--jobs",
    "jobs",
    type=click.File("rb"),
    metavar="FILE",
    help="Decide the last 2,000 jobs of this file (JSON lines as for fleet route --file; - is standard "
    "input), not evaluation rows.",
)
@json_option
@pass_invocation
def try_out(invocation: Invocation, task: str, jobs: IO[bytes] | None, as_json: bool) -> None:
    """Show whose jobs TASK would take from the tasks that are there. Changes nothing.

    The same jobs are decided by the router without TASK and with it: evaluation rows of every task, at
    most 200 each, or the jobs of a file. TASK needs rows, but no champion; one that is routed to already
    is left out and added again. Loads the base; costs about what routing so many jobs costs.
    """
    from fleet.lines import read_lines
    from fleet.registry.store import ROUTER
    from fleet.router_trial import try_task
    from fleet.stores import open_base, open_registry

    project = invocation.project()
    project.task(task)  # a mistyped name should not cost a minute
    registry = open_registry(project)
    if not registry.champions().keys() - {ROUTER, task}:
        raise InputError(f"no other task has a champion, so {task} could take no traffic: fleet train-all")
    lines = None if jobs is None else read_lines(jobs)
    trial = try_task(project, registry, open_base(project), task, lines)
    if as_json:
        print_json(trial)
    else:
        _show(trial, "jobs" if jobs is not None else "evaluation rows")


def _show(trial: Trial, kind: str) -> None:
    found = trial.found
    by = (
        "a router fitted for it over the champions"
        if trial.router_version is None
        else f"router version {trial.router_version}"
    )
    click.secho(f"{found.task}, tried beside {by} on {trial.jobs} {kind}", bold=True)
    columns = ["task", "own rows", "before", "after", f"to {found.task}", "asked back", "nobody", "others"]
    if all(shift.jobs is None for shift in found.shifts):
        columns.remove("own rows")
    made = table(columns, right=columns[1:])
    for shift in found.shifts:
        figures = [shift.before, shift.after, shift.taken, shift.asked, shift.abstained, shift.moved]
        if "own rows" in columns:
            figures.insert(0, shift.jobs)  # type: ignore[arg-type]
        made.add_row(cell(shift.task or NOBODY), *(NONE if n is None else str(n) for n in figures))
    print_table(made)
    _show_taken(found)
    own = found.own
    click.echo(
        f"\nof {own.jobs} evaluation rows of {found.task}: {own.routed} go to it, {own.asked} are asked "
        f"back, {own.lost} go to another task, {own.abstained} to nobody; without it {own.without} go to "
        "another"
    )
    for reason in trial.left_out[:SHOWN]:
        click.echo(f"left out: {reason}", err=True)
    if len(trial.left_out) > SHOWN:
        click.echo(f"left out: {len(trial.left_out) - SHOWN} more", err=True)


def _show_taken(found: WhatIf) -> None:
    if not found.taken:
        click.echo(f"\n{found.task} takes none of them")
        return
    click.echo("\njobs that it takes, for example")
    made = table(["from", "source", "probability", "text"], right=["probability"])
    for each in found.taken:
        shown = f"{each.probability:.2f}"
        made.add_row(cell(each.before or NOBODY), cell(each.source), shown, cell(each.text))
    print_table(made)
