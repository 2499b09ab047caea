"""The command ``fleet``. Heavy modules are imported inside the commands, so that ``--help`` comes at once."""

from __future__ import annotations

import click

from fleet.cli.chaos import chaos
from fleet.cli.check import check
from fleet.cli.init import init
from fleet.cli.invocation import FleetGroup, Invocation, show_log
from fleet.cli.keys import keys
from fleet.cli.route import route
from fleet.cli.router import router
from fleet.cli.schema import schema
from fleet.cli.serve import serve
from fleet.cli.status import status
from fleet.cli.train import train, train_all
from fleet.cli.ui import ui
from fleet.cli.versions import promote, rollback


class InOrder(FleetGroup):
    """Commands in the order in which a person meets them, not in the alphabet's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InOrder, context_settings={"max_content_width": 100})
@click.option(
    "--root",
    metavar="DIR",
    help="The fleet's folder; FLEET_ROOT or the nearest with fleet.yaml if not given.",
)
@click.option("--debug", is_flag=True, help="Show more of what happens, and the traceback of an error.")
@click.version_option(package_name="taskfleet", prog_name="fleet")
@click.pass_context
def main(ctx: click.Context, root: str | None, debug: bool) -> None:
    """Train, keep and ask a fleet of small expert models over one frozen base.

    Exit codes: 0 all well, 1 a failure, 2 bad input, 130 interrupted; some commands have more.
    """
    show_log(debug=debug)
    ctx.obj = Invocation(root, debug)


for _command in (
    init,
    check,
    train,
    train_all,
    status,
    promote,
    rollback,
    route,
    serve,
    keys,
    router,
    ui,
    chaos,
    schema,
):
    main.add_command(_command)
