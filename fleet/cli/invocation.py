"""What every command is told (``--root``, ``--debug``) and how errors leave it. Knows no command.

Our errors become one red paragraph and their own exit code, unexpected ones a paragraph that says
how to see more. With ``--debug`` the traceback comes first; the exit code stays the same.
"""

from __future__ import annotations

import errno
import logging
import traceback
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import click

from fleet.cli.entry import INTERRUPTED
from fleet.errors import FleetError

if TYPE_CHECKING:
    from fleet.project import Project


@dataclass(frozen=True, slots=True)
class Invocation:
    """The options that stand before the command."""

    root: str | None
    debug: bool

    def project(self) -> Project:
        """The project that the command is about. Raises ``ProjectError`` or ``ManifestError``."""
        from fleet.project import Project

        return Project.find(self.root)


pass_invocation = click.make_pass_decorator(Invocation)


class Failure(click.ClickException):
    """A paragraph on standard error, and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        click.secho(f"Error: {self.format_message()}", fg="red", err=True)


class FleetGroup(click.Group):
    """The top of the command line, where every error arrives."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            raise Failure("interrupted", INTERRUPTED) from None
        except FleetError as error:
            _trace(ctx)
            raise Failure(str(error), error.exit_code) from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # click ends quietly when the reader of a pipe has gone
            _trace(ctx)
            raise Failure(_unexpected(ctx, error), FleetError.exit_code) from error


def _trace(ctx: click.Context) -> None:
    if ctx.params.get("debug"):
        click.echo(traceback.format_exc(), err=True, nl=False)


def _unexpected(ctx: click.Context, error: Exception) -> str:
    said = f"{type(error).__name__}: {error}".strip()
    if ctx.params.get("debug"):
        return said
    command = " ".join(part for part in ("fleet --debug", ctx.invoked_subcommand or "", "...") if part)
    return (
        f"something that taskfleet did not foresee: {said}\n"
        f"Run it again as `{command}` to see where, and please report what it shows."
    )


class _ToStandardError(logging.Handler):
    """Finds the stream anew for each line, so that lines go above a live table and into tests' captures."""

    def emit(self, record: logging.LogRecord) -> None:
        click.secho(self.format(record), err=True, dim=record.levelno < logging.WARNING)


def show_log(*, debug: bool) -> None:
    """Let our own remarks and everybody's warnings through to standard error."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[_ToStandardError()])
    logging.getLogger("fleet").setLevel(logging.DEBUG if debug else logging.INFO)
