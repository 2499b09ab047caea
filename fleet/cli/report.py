"""The table at the end of a campaign: one row per task. Knows nothing of how it came about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fleet.cli.output import NONE, cell, duration, interval, number, print_table, table

if TYPE_CHECKING:
    from rich.table import Table

    from fleet.campaign import CampaignReport, ReportRow

COLUMNS = ("task", "result", "version", "metric", "value [95 %]", "champion", "baseline", "time", "verdict")
STYLES = {"trained": "green", "unchanged": "dim", "failed": "bold red"}


def show_report(report: CampaignReport) -> None:
    """Print the table, what failed in full, and what became of the router."""
    if report.rows:
        print_table(report_table(report))
    for row in report.rows:
        if row.error:
            click.secho(f"{row.task} failed: {row.error}", fg="red", err=True)
    click.echo(f"router: {report.router}")


def report_table(report: CampaignReport) -> Table:
    made = table(
        COLUMNS, right=("version", "value [95 %]", "champion", "baseline", "time"), fold=("verdict",)
    )
    for row in report.rows:
        made.add_row(
            cell(row.task),
            cell(row.state, STYLES[row.state]),
            NONE if row.version is None else str(row.version),
            cell(row.metric or NONE),
            interval(row.value, row.low, row.high),
            number(row.champion_value),
            number(row.baseline_value),
            duration(row.seconds) if row.seconds else NONE,
            cell(verdict(row)),
        )
    return made


def verdict(row: ReportRow) -> str:
    """The gate's word with its reason, on one line."""
    reason = "see below" if row.error else row.reason
    return ": ".join(part for part in (row.verdict, reason) if part) or NONE
