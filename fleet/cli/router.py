"""``fleet router``: what is done to the router by hand."""

from __future__ import annotations

import click

from fleet.cli.invocation import Invocation, pass_invocation


@click.group()
def router() -> None:
    """Fit the router, which finds the task of a job."""


@router.command()
@pass_invocation
def fit(invocation: Invocation) -> None:
    """Fit the router over the present champions, register it and make it champion.

    Training does this by itself; it is needed after a promotion by hand of a task's first version.
    """
    from fleet.router_release import refit_router
    from fleet.stores import open_base, open_registry

    project = invocation.project()
    click.echo(f"router: {refit_router(project, open_registry(project), lambda: open_base(project))}")
