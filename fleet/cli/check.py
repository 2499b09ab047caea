"""``fleet check``: every fault of the project at once. Renders faults; finding them is ``fleet.data``'s."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from fleet.cli.invocation import Invocation, pass_invocation
from fleet.cli.output import json_option, print_json
from fleet.errors import Fault, InputError, ManifestError, suggest

SHOWN_LINES = 4
"""Lines that are named beside the first where many rows of a file break the same rule."""
YAML = (".yaml", ".yml")
MORE = re.compile(r"and (\d+) more like this$")

if TYPE_CHECKING:
    from fleet.data.rows import TaskRows
    from fleet.manifest import Manifest
    from fleet.project import Project

    Fleet = Mapping[str, tuple[Manifest, TaskRows]]


@click.command()
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@click.option(
    "--router",
    "with_router",
    is_flag=True,
    help="Look for tasks that could not be told apart as the router would, with the base; takes minutes.",
)
@json_option
@pass_invocation
@click.pass_context
def check(
    ctx: click.Context, invocation: Invocation, tasks: tuple[str, ...], with_router: bool, as_json: bool
) -> None:
    """Check manifests and data; report every fault at once.

    Looks at fleet.yaml and the files it names, every task.yaml and all rows. With TASKs, only faults in
    their files are shown. A fault names file, line, field, rule and value; rows of a file that break the
    same rule share a line, which --json does not do.

    Tasks whose rows the router would confuse are warned about, with rows that collide: by their letters
    alone, at most 200 rows a task, or with --router by all that the router measures.

    Exit codes: 0 no errors (there may be warnings), 2 errors.
    """
    from fleet.data.check import check_project

    try:
        project = invocation.project()
        names = project.task_names()
        _known(tasks, names)
        folders = [f"{project.config.tasks.rstrip('/')}/{task}/" for task in tasks]
        smallest, faults = _policy(project)
        jobs, wrong = _foreign(project)
        faults += wrong
        # A router is fitted over the jobs of nobody too: not while their file is wrong.
        between = _between(project, with_router and not wrong, jobs)
        faults += check_project(project, min_effect=smallest, between=between)
    except InputError as error:
        if not error.faults:
            raise
        names, folders, faults = [], [], list(error.faults)
    if folders:
        faults = [fault for fault in faults if fault.file.startswith(tuple(folders)) or _pairs(fault, tasks)]
    errors = sum(fault.severity == "error" for fault in faults)
    warnings = len(faults) - errors
    if as_json:
        print_json({"errors": errors, "warnings": warnings, "faults": faults})
    else:
        _show(faults)
        checked = f" in {_count(len(tasks or names), 'task')}" if names else ""
        summary = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}{checked}"
        click.secho(summary, fg="red" if errors else "green", bold=True)
    ctx.exit(InputError.exit_code if errors else 0)


def _between(
    project: Project, with_router: bool, foreign: Sequence[Mapping[str, str]]
) -> Callable[[Fleet], list[Fault]]:
    """Finds faults between tasks and ``foreign`` jobs; heavy parts are loaded when there is something to
    compare."""

    def find(fleet: Fleet) -> list[Fault]:
        found: list[Fault] = []
        if foreign:
            from fleet.apart import foreign_faults

            found += foreign_faults(foreign, project.config.routing.out_of_scope_jobs or "", fleet)
        if len(fleet) < 2:
            return found
        if not with_router:
            from fleet.apart import apart_faults

            return found + apart_faults(fleet)
        from fleet.router_trial import router_faults
        from fleet.stores import open_base

        return found + router_faults(project, open_base(project), fleet)

    return find


def _pairs(fault: Fault, tasks: Sequence[str]) -> bool:
    """Whether it is about two tasks, the second of which was named."""
    from fleet.apart import PAIR_RULES

    return fault.rule in PAIR_RULES and fault.value in tasks


def _policy(project: Project) -> tuple[float, list[Fault]]:
    """The smallest difference that the promotion policy asks for, and the faults of its file."""
    from fleet.registry.policy import Policy, load_policy

    name = project.config.policy
    try:
        return load_policy(project.resolve(name), name=name).gate.min_effect, []
    except ManifestError as error:
        return Policy().gate.min_effect, list(error.faults)


def _foreign(project: Project) -> tuple[list[Mapping[str, str]], list[Fault]]:
    """The project's own jobs of nobody, and what is wrong with their file."""
    from fleet.foreign import read_foreign

    try:
        return read_foreign(project), []
    except InputError as error:
        return [], list(error.faults)


def _show(faults: Sequence[Fault]) -> None:
    """One line for each fault of a manifest; one for all rows of a file that break the same rule."""
    groups: dict[tuple[str, str, str, str, str], list[Fault]] = {}
    for fault in sorted(faults, key=lambda f: (f.severity != "error", f.file, f.line or 0, f.field)):
        # What a person has written by hand is never folded.
        apart = str(fault) if fault.file.endswith(YAML) or fault.rule == "not-a-job" else fault.field
        groups.setdefault((fault.severity, fault.file, fault.rule, fault.field, apart), []).append(fault)
    for (severity, *_), group in groups.items():
        error = severity == "error"
        click.secho("error   " if error else "warning ", fg="red" if error else "yellow", nl=False)
        click.echo(str(group[0]) + _others(group))


def _others(group: Sequence[Fault]) -> str:
    if len(group) == 1:
        return ""
    lines = list(dict.fromkeys(str(fault.line) for fault in group[1:] if fault.line is not None))
    shown = ", ".join(lines[:SHOWN_LINES]) + (", ..." if len(lines) > SHOWN_LINES else "")
    # The last of many may stand for more of its kind (fleet.data.rows.condense).
    more = sum(int(found[1]) for fault in group[1:] if (found := MORE.search(fault.message)))
    return f" - {len(group) + more:,} of these" + (f", also on line {shown}" if lines else "")


def _known(tasks: Sequence[str], names: Sequence[str]) -> None:
    unknown = [task for task in dict.fromkeys(tasks) if task not in names]
    if unknown:
        raise ManifestError(
            "\n".join(f"there is no task called {task}; {suggest(task, names)}" for task in unknown)
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
