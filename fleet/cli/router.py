"""``fleet router``: what is done to the router by hand."""

from __future__ import annotations

import click

from fleet.cli.invocation import Invocation, pass_invocation
from fleet.errors import InputError


@click.group()
def router() -> None:
    """Fit the router, which finds the task of a job."""


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
