"""``fleet route``: one text or many jobs through the router and its experts, in this process or a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fleet.cli.bulk import PART_ROWS, BulkWishes, run_bulk
from fleet.cli.entry import INTERRUPTED
from fleet.cli.invocation import Failure, Invocation, pass_invocation
from fleet.cli.jobs import ResultFile
from fleet.cli.output import print_json
from fleet.cli.progress import job_progress
from fleet.cli.result import result_summary, show_explained, show_result
from fleet.engine.specs import WEIGHTS, Weights
from fleet.errors import FleetError, InputError, suggest
from fleet.lines import Line, read_lines, result_line, some_text
from fleet.plain import json_line

if TYPE_CHECKING:
    from fleet.bulk.source import Kind
    from fleet.host import Host
    from fleet.job import Result

UNDECIDED = 3
"""Exit code for a single text that the router gives to nobody."""
STANDARD_INPUT = "-"
CHUNK = 64
"""Jobs answered together; results are written after each."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options that hold for every job."""

    task: str | None
    top: int
    all: bool
    explain: bool
    as_json: bool
    weights: Weights
    router: int | None


@click.command()
@click.argument("texts", nargs=-1, metavar="[TEXT]")
@click.option(
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Jobs as JSON lines; - is standard input.",
)
@click.option("--task", help="Give the job to this task; the router is not asked.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Let the likeliest N answer.",
)
@click.option(
    "--all",
    is_flag=True,
    help="If the job needs several tasks at once, let all answer; without it you are only told which.",
)
@click.option("--explain", is_flag=True, help="Show why: nearest training rows, runner-up, fit, thresholds.")
@click.option(
    "--router",
    type=click.IntRange(min=1),
    metavar="VERSION",
    help="Decide as this version of the router would, not its champion. Experts are the champions.",
)
@click.option(
    "--weights",
    type=click.Choice(WEIGHTS),
    default="bf16",
    show_default=True,
    help="Weights to answer with. On a CPU int8 is faster for labels and for many jobs at a time, int4 for "
    "one long text; both change some answers, neither the routing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; JSON lines for many jobs.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write JSON lines to this file, with --address into this folder; one that is there is gone on with.",
)
@click.option(
    "--address",
    metavar="ADDRESS",
    help="Let the replicas of a fleet answer that is served there (fleet serve --address): host:port of its "
    "Ray cluster, or auto for the one on which fleet serve runs this project here.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --address: jobs on their way at a time; as many as keep the replicas busy if not given.",
)
@click.option(
    "--part-rows",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help=f"With --address: jobs in each file of the output; {PART_ROWS} if not given.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "parquet"]),
    help="With --address: of the output; that of the input if not given.",
)
@pass_invocation
@click.pass_context
def route(
    ctx: click.Context,
    invocation: Invocation,
    /,
    texts: tuple[str, ...],
    file: str | None,
    output: Path | None,
    address: str | None,
    in_flight: int | None,
    part_rows: int | None,
    form: Kind | None,
    **wishes: Any,
) -> None:
    """Route TEXT to its expert and show decision, answer and receipt.

    With --file, or with - as TEXT (standard input), every line is a job: {"text": "..."} or
    {"fields": {...}}, with "id", and "task" or "all": true if wanted. Results come in the same order. A line
    that is no job, or a job that fails, becomes a result with an error and stops nothing. Results already in
    --output are kept (half a result at its end is dropped) and the rest is added.

    With --address the jobs of a file, JSON lines or Parquet with the same names as columns, are answered
    by a fleet that is served, and results go into a folder, one file for each part of the input. Whatever
    ends the run, the same command goes on with the parts that are missing. _SUCCESS is written last.

    \b
    Exit codes:
      0    answered; with many jobs: each was answered, or given to nobody on purpose
      1    a failure of an expert, the registry or this machine
      2    bad input: not a job, unknown task, no project
      3    a single text for which the router asks back (clarify), finds that it needs several tasks
           (compound) where --all is not given, or finds no expert (abstain)
      130  interrupted
    """
    wished = Wishes(**wishes)
    if len(texts) > 1:
        raise click.UsageError(f"TEXT is one argument, got {len(texts)} words: put the text in quotes.")
    text = texts[0] if texts else None
    if text == STANDARD_INPUT and file is None:
        text, file = None, STANDARD_INPUT
    if (text is None) == (file is None):
        raise click.UsageError("Give either TEXT or --file.")
    if wished.router is not None:
        for option, given in (("--task", wished.task), ("--address", address)):
            if given is not None:
                raise click.UsageError(f"--router does not go with {option}: no router is asked here.")
    if wished.all and wished.task is not None:
        raise click.UsageError("--all does not go with --task: no router is asked then.")
    if text is not None:
        for option, value in (("--output", output), ("--address", address)):
            if value is not None:
                raise click.UsageError(f"{option} goes with --file.")
        some_text(text)
        _check_task(invocation, wished.task)
        ctx.exit(_one(invocation, text, wished))
    if address is not None:
        bulk = BulkWishes(address, in_flight, part_rows or PART_ROWS, form)
        ctx.exit(_bulk(ctx, invocation, str(file), output, wished, bulk))
    if (in_flight, part_rows, form) != (None, None, None):
        raise click.UsageError("--in-flight, --part-rows and --format go with --address.")
    if output is not None and output.is_dir():
        raise InputError(
            f"--output {output} is a folder: name a file, or the cluster that answers (--address)"
        )
    _check_task(invocation, wished.task)
    ctx.exit(_many(invocation, str(file), output, wished))


def _bulk(
    ctx: click.Context,
    invocation: Invocation,
    file: str,
    output: Path | None,
    wished: Wishes,
    bulk: BulkWishes,
) -> int:
    if output is None or file == STANDARD_INPUT:
        raise click.UsageError("--address goes with a --file that is no stream, and a folder as --output.")
    if wished.explain or ctx.get_parameter_source("weights") is not ParameterSource.DEFAULT:
        raise click.UsageError("--explain and --weights do not go with --address: the replicas have theirs.")
    _check_task(invocation, wished.task)
    return run_bulk(
        invocation,
        Path(file),
        output,
        task=wished.task,
        top=wished.top,
        every=wished.all,
        as_json=wished.as_json,
        bulk=bulk,
    )


def _check_task(invocation: Invocation, task: str | None) -> None:
    """Before the base is loaded: a mistyped name should not cost a minute."""
    if task is not None and task not in (names := invocation.project().task_names()):
        raise InputError(f"there is no task called {task}; {suggest(task, names)}")


def _one(invocation: Invocation, text: str, wished: Wishes) -> int:
    from fleet.job import Job

    host = _host(invocation, wished)
    job = Job("1", text=text, task=wished.task, all=wished.all)
    (result,) = host.answer([job], top=wished.top)
    explained = host.explain(job) if wished.explain and not result.bad_job else None
    if wished.as_json:
        by = {} if wished.router is None else {"router_version": wished.router}
        print_json({"result": result, **by, **({} if explained is None else {"explained": explained})})
    else:
        show_result(result)
        if explained is not None:
            show_explained(explained)
    if result.error:
        raise Failure(result.error, _code(result))
    kind = None if result.decision is None else result.decision.kind
    return 0 if kind == "route" or (kind == "compound" and result.answers) else UNDECIDED


def _many(invocation: Invocation, file: str, output: Path | None, wished: Wishes) -> int:
    code, seen = 0, 0
    if output is not None and file != STANDARD_INPUT and output.exists() and output.samefile(file):
        raise InputError(f"--output {output} is the file of the jobs itself: name another")
    with ExitStack() as stack:
        source: IO[bytes] = (
            sys.stdin.buffer if file == STANDARD_INPUT else stack.enter_context(Path(file).open("rb"))
        )
        total = None if file == STANDARD_INPUT else _count(Path(file))
        lines = read_lines(source, wished.task, every=wished.all)
        sink = None if output is None else stack.enter_context(ResultFile(output))
        advance = stack.enter_context(
            job_progress(total, shown=output is not None or not sys.stdout.isatty())
        )
        try:
            for kept in sink.resume(lines) if sink else ():
                code, seen = _worse(code, _kept_code(kept)), seen + 1
                advance(1)
            for answered in _answer(invocation, sink.left(lines) if sink else lines, wished):
                for line, result, explained in answered:
                    _write(sink, line, result, explained, wished)
                    code = _worse(code, InputError.exit_code if result is None else _code(result))
                if sink is not None:
                    sink.flush()
                seen += len(answered)
                advance(len(answered))
        except KeyboardInterrupt:
            left = (
                f"{output} holds the results so far; the same command goes on from there"
                if output
                else "interrupted"
            )
            raise Failure(left, INTERRUPTED) from None
    if not seen:
        click.echo(f"no jobs in {'standard input' if file == STANDARD_INPUT else file}", err=True)
    return code


Answered = list[tuple[Line, "Result | None", "dict[str, Any] | None"]]


def _answer(invocation: Invocation, lines: Iterator[Line], wished: Wishes) -> Iterator[Answered]:
    """Chunks of lines with their results; the host is opened when there is a job for it."""
    host: Host | None = None
    while chunk := list(islice(lines, CHUNK)):
        jobs = [line.job for line in chunk if line.job is not None]
        if jobs and host is None:
            host = _host(invocation, wished)
        results = iter(host.answer(jobs, top=wished.top) if host else ())
        answered: Answered = []
        for line in chunk:
            result = None if line.job is None else next(results)
            explained = None
            if wished.explain and host and line.job and result and not result.bad_job:
                explained = host.explain(line.job)
            answered.append((line, result, explained))
        yield answered


def _write(
    sink: ResultFile | None,
    line: Line,
    result: Result | None,
    explained: dict[str, Any] | None,
    wished: Wishes,
) -> None:
    if sink is not None:
        sink.write(result_line(line, result, explained))
    elif wished.as_json:
        click.echo(json_line(result_line(line, result, explained)))
    elif result is None:
        click.echo(f"{line.id}  " + click.style(f"error: {line.error}", fg="red"))
    else:
        click.echo(result_summary(line.id, result))
        if explained is not None:
            show_explained(explained)


def _host(invocation: Invocation, wished: Wishes) -> Host:
    from fleet.host import Host

    host = Host.open(invocation.project(), weights=wished.weights, router=wished.router)
    if wished.router is not None:
        click.echo(f"router version {wished.router} decides", err=True)
    return host


def _code(result: Result) -> int:
    if result.error is None:
        return 0
    return InputError.exit_code if result.bad_job else FleetError.exit_code


def _kept_code(kept: dict[str, Any]) -> int:
    if kept["error"] is None:
        return 0
    return InputError.exit_code if kept["bad_job"] else FleetError.exit_code


def _worse(one: int, other: int) -> int:
    """A failure of ours says more than bad input, and bad input more than nothing."""
    return min(one, other) or max(one, other)


def _count(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(1 for line in stream if line.strip())
