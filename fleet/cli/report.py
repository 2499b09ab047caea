"""The table at the end of a campaign: one row per task. Knows nothing of how it came about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fleet.cli.output import NONE, cell, console, duration, interval, number, table

if TYPE_CHECKING:
    from rich.table import Table

    from fleet.campaign import CampaignReport, ReportRow

COLUMNS = ("task", "version", "metric", "value [95 %]", "champion", "baseline", "time", "verdict")
FIGURES = ("version", "value [95 %]", "champion", "baseline", "time")
STYLES = {"promoted": "green", "failed": "bold red", "unchanged": "dim"}
WIDE = 150
"""Columns of a terminal from which on reasons stand in the table, and not below it."""


def show_report(report: CampaignReport) -> None:
    """Print the table, the reasons, what failed in full, and what became of the router."""
    screen = console()
    wide = screen.width >= WIDE
    if report.rows:
        screen.print(report_table(report, reasons=wide))
    for row in report.rows:
        if row.error:
            click.secho(f"{row.task} failed: {row.error}", fg="red", err=True)
        elif row.reason and not wide:
            click.echo(f"{row.task}: {row.reason}")
    click.echo(f"router: {report.router}")


def report_table(report: CampaignReport, *, reasons: bool) -> Table:
    made = table(COLUMNS, right=FIGURES)
    for row in report.rows:
        word = _word(row)
        reason = f": {row.reason}" if reasons and row.reason and not row.error else ""
        made.add_row(
            cell(row.task),
            NONE if row.version is None else str(row.version),
            cell(row.metric or NONE),
            interval(row.value, row.low, row.high),
            number(row.champion_value),
            number(row.baseline_value),
            duration(row.seconds) if row.seconds else NONE,
            cell(word + reason, STYLES.get(word, "")),
        )
    return made


def _word(row: ReportRow) -> str:
    """What became of the task: the gate's word on a new version, else why there is none."""
    return row.verdict or row.state if row.state == "trained" else row.state
