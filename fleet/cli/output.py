"""How figures, tables and JSON look on the way out. Knows nothing of what they are about.

Results go to standard output, everything else to standard error. rich is imported when a table is
drawn, not before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fleet.plain import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NONE = "-"
PIPED_WIDTH = 240
"""Columns of a table that nobody looks at in a terminal: nothing should be cut or folded there."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def print_json(value: Any) -> None:
    click.echo(json.dumps(plain(value), ensure_ascii=False, indent=2))


def console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not made.is_terminal:
        made = Console(stderr=stderr, highlight=False, width=PIPED_WIDTH)
    return made


def table(columns: Sequence[str], *, right: Sequence[str] = ()) -> Table:
    """An empty table whose ``right`` columns hold figures; cells fold where the terminal is narrow."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def print_table(made: Table) -> None:
    console().print(made)


def cell(text: str, style: str = "") -> Any:
    """Text for a table that is shown as it is, brackets included."""
    from rich.text import Text

    return Text(text, style=style)


def number(value: float | None, digits: int = 3) -> str:
    return NONE if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def interval(value: float, low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def duration(seconds: float | None) -> str:
    """``7 s``, ``3 min 05 s``, ``2 h 07 min``, ``5 d``."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 2 * 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d"


def size(count: int) -> str:
    """Bytes in decimal units, as file managers show them."""
    if count < 1_000_000:
        return f"{count / 1_000:.1f} kB"
    return f"{count / 1_000_000:.1f} MB"
