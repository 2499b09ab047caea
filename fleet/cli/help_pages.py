"""``docs/help.md``, made from every command's ``--help``: ``python -m fleet.cli.help_pages --write``.

Writes and checks ``docs/fields.md`` along with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from fleet.cli.field_pages import field_pages
from fleet.cli.main import main as fleet
from fleet.errors import InputError

PAGE = Path("docs/help.md")
FIELDS = Path("docs/fields.md")
WIDTH = 100
HEADING = """# Commands

Made by `python -m fleet.cli.help_pages --write` from what each command says of itself.
"""


def help_pages() -> str:
    """The whole page."""
    return "\n".join([HEADING, *_pages(fleet, _context(fleet, "fleet"))])


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    # The same page whatever the terminal it is made in.
    return click.Context(command, parent, name, terminal_width=WIDTH, max_content_width=WIDTH)


def _pages(command: click.Command, ctx: click.Context) -> Iterator[str]:
    yield f"## {ctx.command_path}\n\n```\n{command.get_help(ctx)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            if child is not None:
                yield from _pages(child, _context(child, name, ctx))


@click.command()
@click.option("--write", "action", flag_value="write", help=f"Write {PAGE} and {FIELDS}.")
@click.option("--check", "action", flag_value="check", help="Exit with 2 unless both are fresh.")
def main(action: str | None) -> None:
    """Keep the help pages up to date; the working directory is the repository."""
    pages = {PAGE: help_pages(), FIELDS: field_pages()}
    if action == "write":
        for path, page in pages.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(page, encoding="utf-8")
    elif action == "check":
        stale = [path for path, page in pages.items() if not _is_fresh(path, page)]
        for path in stale:
            click.secho(
                f"{path} is missing or out of date: python -m fleet.cli.help_pages --write",
                fg="red",
                err=True,
            )
        if stale:
            raise SystemExit(InputError.exit_code)
    else:
        click.echo("\n".join(pages.values()))


def _is_fresh(path: Path, page: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == page


if __name__ == "__main__":
    main()
