"""How far many jobs have come. Knows nothing of how they are answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from fleet.cli.output import console


@contextmanager
def job_progress(
    total: int | None, *, shown: bool = True, every: int = 64
) -> Iterator[Callable[[int], None]]:
    """A bar on standard error where it is a terminal, elsewhere a line after ``every`` so many jobs."""
    screen = console(stderr=True)
    if not shown:
        yield lambda count: None
    elif screen.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("jobs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=screen) as bar:
            work = bar.add_task("jobs", total=total)
            yield lambda count: bar.advance(work, count)
    else:
        done = 0

        def say(count: int) -> None:
            nonlocal done
            if done // every != (done := done + count) // every or done == total:
                click.echo(f"{done}{'' if total is None else f' of {total}'} jobs", err=True)

        yield say
