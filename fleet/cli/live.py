"""What a person sees while a campaign runs: a live table in a terminal, plain lines elsewhere.

Both watch a campaign (``fleet.campaign.Observer``) and write to standard error. They know nothing of
how the training is done.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from fleet.cli.output import NONE, cell, console, duration, number, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fleet.assignment import TaskOutcome
    from fleet.campaign import Observer
    from fleet.engine.train import Progress

COLUMNS = ("task", "state", "step", "loss", "metric", "tokens/s", "time left")
STYLES: Mapping[str, str] = {"waiting": "dim", "trained": "green", "done": "green", "failed": "bold red"}
LINES_PER_TRAINING = 10


@contextmanager
def watching(screen: Console | None = None) -> Iterator[Observer]:
    """An observer for the length of a campaign: live where standard error is a terminal."""
    screen = screen or console(stderr=True)
    if not screen.is_terminal:
        yield PlainLines()
        return
    from rich.live import Live

    live_table = LiveTable(screen)
    with Live(get_renderable=live_table.render, console=screen, refresh_per_second=4):
        yield live_table


class LiveTable:
    """One row per task, redrawn in place; notes go above it."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._rows: dict[str, Progress | None] = {}
        self._ended: dict[str, str] = {}

    def started(self, tasks: list[str]) -> None:
        self._rows = dict.fromkeys(tasks)

    def progress(self, progress: Progress) -> None:
        # A new mapping each time: the drawing thread goes through the old one meanwhile.
        self._rows = {**self._rows, progress.task: progress}

    def outcome(self, outcome: TaskOutcome) -> None:
        self._ended = {**self._ended, outcome.task: "failed" if outcome.error else "trained"}
        if outcome.error:
            self._screen.print(cell(f"{outcome.task} failed: {_first_line(outcome.error)}", "red"))

    def note(self, text: str) -> None:
        self._screen.print(cell(text, "dim"))

    def render(self) -> Table:
        made = table(COLUMNS, right=COLUMNS[2:])
        made.show_header = bool(self._rows)
        for task, progress in self._rows.items():
            state = self._ended.get(task) or (progress.state if progress else "waiting")
            figures = (NONE,) * 5 if progress is None else _figures(progress, ended=task in self._ended)
            made.add_row(cell(task), cell(state, STYLES.get(state, "")), *figures)
        return made


class PlainLines:
    """A line when a task's state changes, and about ten during its training."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int]] = {}

    def started(self, tasks: list[str]) -> None:
        self.note(f"training: {', '.join(tasks)}")

    def progress(self, progress: Progress) -> None:
        part = LINES_PER_TRAINING * progress.step // max(1, progress.steps)
        # Validation comes and goes within the training; only where it gets to is news.
        state = "training" if progress.state == "validating" else progress.state
        if self._last.get(progress.task) == (state, part):
            return
        self._last[progress.task] = (state, part)
        step, loss, metric, speed, left = _figures(progress)
        parts = [f"{progress.task}: {state}"]
        if state == "training":
            parts += [f"step {step}", f"loss {loss}", f"metric {metric}", f"{speed} tokens/s", f"{left} left"]
        click.echo(", ".join(part for part in parts if NONE not in part.split()), err=True)

    def outcome(self, outcome: TaskOutcome) -> None:
        if outcome.error:
            click.echo(f"{outcome.task}: failed: {_first_line(outcome.error)}", err=True)
        else:
            click.echo(f"{outcome.task}: trained in {duration(outcome.seconds)}", err=True)

    def note(self, text: str) -> None:
        click.echo(text, err=True)


def _figures(progress: Progress, *, ended: bool = False) -> tuple[str, str, str, str, str]:
    """Step, loss, metric, tokens/s, time left."""
    speed = progress.tokens_per_second
    going = not ended and progress.state in ("training", "validating")
    return (
        f"{progress.step}/{progress.steps}" if progress.steps else NONE,
        number(progress.loss),
        number(progress.metric),
        f"{speed:,.0f}" if going and math.isfinite(speed) and speed > 0 else NONE,
        duration(progress.seconds_left) if going else NONE,
    )


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
