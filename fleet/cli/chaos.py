"""``fleet chaos``: drills on a tiny service of its own. What they break is ``fleet.chaos``'s."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.cli.invocation import Invocation, pass_invocation
from fleet.cli.output import NONE, cell, console, duration, json_option, print_json, print_table, table

if TYPE_CHECKING:
    from fleet.chaos.findings import DrillFigures

COLUMNS = (
    "drill",
    "jobs",
    "told to come again",
    "cut off",
    "lost",
    "mixed",
    "misdated",
    "p99",
    "time",
    "and",
)


@click.command()
@click.argument("drills", nargs=-1, metavar="[DRILL]...")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="For how long the champion is changed every second.",
)
@json_option
@pass_invocation
def chaos(invocation: Invocation, drills: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """Break a service on purpose and count what is lost.

    A tiny fleet is started on a loopback address, jobs come all the time, and their answers are compared with
    what the version on the receipt says. Nothing of your fleet is touched. DRILL is one of replica-killed,
    watcher-killed, ingress-killed, corrupt-artifact, registry-down, registry-hangs, alias-flipped, flood,
    cold, poison, node-lost; all of them if none is given.

    Exit code 1 if a job was lost, mixed up, or from another version than its receipt says.
    """
    from fleet.chaos.drills import DRILLS, run_drill
    from fleet.chaos.ground import ground
    from fleet.errors import suggest
    from fleet.signals import terminate_as_interrupt

    for name in drills:
        if name not in DRILLS:
            raise click.BadParameter(
                f"there is no drill {name!r}: {suggest(name, DRILLS)}",
                param_hint="DRILL",
            )
    click.echo("starting a tiny fleet on a Ray of its own", err=True)
    figures = []
    screen = console(stderr=True)
    with terminate_as_interrupt(), _quiet(shown=invocation.debug), ground() as made:
        for name in drills or DRILLS:
            with screen.status(name) if screen.is_terminal else _line(name):
                figures.append(run_drill(name, made, seconds=seconds))
            _tell(figures[-1])
    if as_json:
        print_json(figures)
    else:
        _show(figures)
    if any(each.failures for each in figures):
        sys.exit(1)


@contextlib.contextmanager
def _quiet(*, shown: bool) -> Iterator[None]:
    """Ray says on standard output which of its processes have died, as drills want them to."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(sys.stderr if shown else nowhere):
        yield


@contextlib.contextmanager
def _line(name: str) -> Iterator[None]:
    click.echo(name, err=True)
    yield


def _tell(figures: DrillFigures) -> None:
    """At once, for who watches; all of it again at the end."""
    for fault in figures.failures:
        click.echo(f"{figures.drill}: {fault}", err=True)


def _show(figures: Sequence[DrillFigures]) -> None:
    made = table(COLUMNS, right=tuple(each for each in COLUMNS if each not in ("drill", "and")))
    for each in figures:
        load = each.load
        made.add_row(
            cell(each.drill, "red" if each.failures else "green"),
            str(load.jobs),
            str(load.again),
            str(load.broken),
            str(load.lost),
            str(load.mixed),
            str(load.misdated),
            NONE if load.p99_ms is None else f"{load.p99_ms:.0f} ms",
            duration(each.seconds),
            cell("; ".join([*map(_note, each.notes.items()), *each.failures])),
        )
    print_table(made)


def _note(note: tuple[str, float | int | str]) -> str:
    name, value = note
    shown = f"{value:.2f} s" if isinstance(value, float) else str(value)
    return f"{name.replace('_', ' ')} {shown}"
