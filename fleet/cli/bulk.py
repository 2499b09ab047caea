"""``fleet route --address``: a file of many jobs through a fleet that is served, into a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.cli.entry import INTERRUPTED
from fleet.cli.invocation import Failure, Invocation
from fleet.cli.output import duration, number, print_json
from fleet.cli.progress import job_progress
from fleet.errors import ClusterError, InputError
from fleet.signals import terminate_as_interrupt

if TYPE_CHECKING:
    from fleet.bulk.folder import BulkFolder
    from fleet.bulk.results import Tally
    from fleet.bulk.source import Kind, Part
    from fleet.project import Project

PART_ROWS = 500
LINES = 100
"""About so many lines of progress in all, where nobody watches."""


@dataclass(frozen=True, slots=True)
class BulkWishes:
    """The options that go with ``--address``."""

    address: str
    in_flight: int | None
    part_rows: int
    form: Kind | None


@dataclass(slots=True)
class _Course:
    """What has been done so far, and by this run."""

    tally: Tally
    rows: int = 0
    """Answered by this run,"""
    seconds: float = 0.0
    """in so long."""


def run_bulk(
    invocation: Invocation,
    file: Path,
    output: Path,
    *,
    task: str | None,
    top: int,
    every: bool,
    as_json: bool,
    bulk: BulkWishes,
) -> int:
    """Answer what is not answered yet; the exit code for all of it."""
    from fleet.bulk.folder import MANIFEST, open_folder
    from fleet.bulk.results import Tally

    project = invocation.project()
    course = _Course(Tally())
    if not (output / MANIFEST).exists():  # where nobody can answer, nothing is begun
        _where(project, bulk.address)
    opened = open_folder(
        output, file, task=task, top=top, every=every, part_rows=bulk.part_rows, form=bulk.form
    )
    try:
        with terminate_as_interrupt(), opened as folder:
            total = folder.cut.rows
            with job_progress(total, every=max(1, total // LINES)) as advance:
                left = set(folder.cut.parts)
                for part, tally in folder.done():
                    left.remove(part)
                    course.tally += tally
                    advance(part.rows)
                if left:
                    folder.reopen()
                    for part in _answer(project, folder, bulk, sorted(left, key=lambda p: p.number), course):
                        advance(part.rows)
            folder.succeed(course.tally)
    except KeyboardInterrupt:
        raise Failure(
            f"{output} holds {course.tally.rows} results so far; the same command goes on from there",
            INTERRUPTED,
        ) from None
    _report(output, course, as_json=as_json)
    return course.tally.exit_code


def _answer(
    project: Project, folder: BulkFolder, bulk: BulkWishes, left: list[Part], course: _Course
) -> Iterator[Part]:
    from fleet.cluster.bulk import Order, answer_parts, running_replicas
    from fleet.cluster.session import AUTO, connect

    address = _where(project, bulk.address)
    with connect(address, telemetry=project.config.telemetry, token=bulk.address == AUTO):
        replicas = running_replicas(address)
        click.echo(f"{replicas} replica{'s' if replicas != 1 else ''} answer at {address}", err=True)
        options = folder.options
        order = Order(
            folder.source.resolve(),
            folder.kind,
            options.format,
            options.task,
            options.top,
            options.all,
            bulk.in_flight,
            address,
        )
        begun = time.perf_counter()
        for answered in answer_parts(order, iter(left)):
            folder.publish(answered.part, answered.content)
            course.tally += answered.tally
            course.rows += answered.part.rows
            course.seconds = time.perf_counter() - begun
            yield answered.part


def _where(project: Project, address: str) -> str:
    """The cluster's ``host:port``. Raises ``FleetError`` when nobody can be asked there."""
    from fleet.cluster.session import AUTO, check_address
    from fleet.whereabouts import running_service

    if address == AUTO:
        service = running_service(project)
        if service is None or not service.ray:
            raise ClusterError(
                f"--address auto: no service of the fleet in {project.root} runs on this machine: start it "
                "(fleet serve), or name a machine of the cluster that serves it (--address HOST:PORT)"
            )
        address = service.ray
    if "://" in address:
        raise InputError(
            f"--address {address}: the file is read where the command runs, which has to be a machine "
            "of the cluster: run it there, with host:port"
        )
    check_address(address)
    return address


def _report(output: Path, course: _Course, *, as_json: bool) -> None:
    tally = course.tally
    speed = course.rows / course.seconds if course.seconds else None
    if as_json:
        print_json(
            {
                "output": output,
                "rows": tally.rows,
                **asdict(tally),
                "answered_now": course.rows,
                "seconds": round(course.seconds, 3),
                "jobs_per_second": speed,
            }
        )
        return
    if not tally.rows:
        click.echo("no jobs in the file", err=True)
    click.echo(
        f"{output} holds {tally.rows:,} results: {tally.answered:,} answered, {tally.undecided:,} given to "
        f"nobody, {tally.bad_jobs:,} bad jobs, {tally.failed:,} failed"
    )
    if course.rows:
        click.echo(f"{course.rows:,} jobs in {duration(course.seconds)}: {number(speed, 1)} jobs/s")
