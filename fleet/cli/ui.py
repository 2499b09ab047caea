"""``fleet ui``: MLflow's own pages on the fleet's versions. The server is ``fleet.registry.ui``'s."""

from __future__ import annotations

import click

from fleet.cli.invocation import Invocation, pass_invocation


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=5000, show_default=True, help="0 takes a free one."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--allowed-hosts", default="", help="Names under which the server may be called, as MLflow takes them."
)
@pass_invocation
def ui(invocation: Invocation, port: int, host: str, allowed_hosts: str) -> None:
    """Show versions in MLflow's UI until Ctrl-C.

    Set the alias `champion` on a version there to promote it.
    """
    from fleet.registry.ui import serve_ui

    project = invocation.project()
    click.echo("starting MLflow's server", err=True)
    serve_ui(
        project.tracking_uri,
        project.artifact_root,
        log=project.state / "ui.log",
        on_ready=_say,
        host=host,
        port=port,
        allowed_hosts=allowed_hosts,
    )


def _say(address: str) -> None:
    click.echo(f"MLflow is at {address} (Ctrl-C ends a server that was started here)")
