"""``fleet train`` and ``fleet train-all``: start a campaign, show it, report; ``fleet.campaign`` does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fleet.cli.entry import INTERRUPTED
from fleet.cli.invocation import Failure, Invocation, pass_invocation
from fleet.cli.output import json_option, print_json
from fleet.errors import FleetError

if TYPE_CHECKING:
    from fleet.campaign import Only

Command = TypeVar("Command", bound=Callable[..., Any])

RESUMABLE = (
    "interrupted; nothing is lost: what is done is registered or kept in storage, the rest has checkpoints. "
    "The same command goes on from there."
)


def _training_options(command: Command) -> Command:
    for option in (
        json_option,
        click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of one worker."),
        click.option(
            "--workers", type=click.IntRange(min=1), metavar="N", help="Trainings that run at once."
        ),
        click.option(
            "--address",
            help="A Ray cluster, host:port or ray://host:10001; RAY_ADDRESS or this machine if not given.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@_training_options
@pass_invocation
@click.pass_context
def train(ctx: click.Context, invocation: Invocation, /, tasks: tuple[str, ...], **options: Any) -> None:
    """Train, register and gate TASKs.

    Evaluates them too, and refits the router. What is registered already for the same manifest, data
    and base is not trained again. Ctrl-C leaves everything resumable.

    Exit codes: 0 all well, 1 a task failed, 2 bad input, 130 interrupted.
    """
    _campaign(ctx, invocation, tasks, **options)


@click.command("train-all")
@click.option(
    "--only",
    type=click.Choice(["failed", "changed"]),
    help="Only tasks that failed the last time, or whose manifest, data or base has changed.",
)
@_training_options
@pass_invocation
@click.pass_context
def train_all(ctx: click.Context, invocation: Invocation, /, **options: Any) -> None:
    """Train, register and gate every task.

    Evaluates them too, and refits the router. What is registered already for the same manifest, data
    and base is not trained again. One failed task does not stop the others. Ctrl-C leaves everything
    resumable.

    Exit codes: 0 all well, 1 a task failed, 2 bad input, 130 interrupted.
    """
    _campaign(ctx, invocation, (), **options)


def _campaign(
    ctx: click.Context,
    invocation: Invocation,
    tasks: Sequence[str],
    *,
    address: str | None,
    workers: int | None,
    threads: int | None,
    as_json: bool,
    only: Only | None = None,
) -> None:
    from fleet.campaign import run_campaign
    from fleet.cli.live import watching
    from fleet.cli.report import show_report

    project = invocation.project()
    if address is not None:
        from fleet.cluster.session import check_address

        check_address(address)
    try:
        with watching() as observer:
            report = run_campaign(
                project,
                list(dict.fromkeys(tasks)),
                observer,
                address=address,
                workers=workers,
                threads=threads,
                only=only,
            )
    except KeyboardInterrupt:
        raise Failure(RESUMABLE, INTERRUPTED) from None
    if as_json:
        print_json({"rows": report.rows, "router": report.router, "failed": report.failed})
    else:
        show_report(report)
    ctx.exit(FleetError.exit_code if report.failed else 0)
