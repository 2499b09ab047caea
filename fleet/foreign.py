"""A project's own jobs of nobody: the file that ``routing.out_of_scope_jobs`` names. Knows no models."""

from __future__ import annotations

from collections.abc import Mapping

from fleet.errors import DataError, Fault, ProjectError
from fleet.lines import read_lines
from fleet.project import Project

__all__ = ["FIELD", "read_foreign"]

FIELD = "routing.out_of_scope_jobs"


def read_foreign(project: Project) -> list[Mapping[str, str]]:
    """The fields of each job; none where the project names no file.

    Raises ``DataError`` for a file that cannot be read, or with every line that is no such job.
    """
    name = project.config.routing.out_of_scope_jobs
    if name is None:
        return []
    try:
        with project.resolve(name).open("rb") as stream:
            lines = list(read_lines(stream))
    except ProjectError as error:
        words = "it lies outside the project: keep files inside it"
        raise DataError(
            faults=[Fault("file-unreadable", words, "fleet.yaml", field=FIELD, value=name)]
        ) from error
    except OSError as error:
        words = f"it cannot be read ({error.strerror}): name a file of jobs, or take the field out"
        raise DataError(
            faults=[Fault("file-unreadable", words, "fleet.yaml", field=FIELD, value=name)]
        ) from error
    faults = [Fault("not-a-job", f"{FIELD}: {line.error}", name) for line in lines if line.job is None]
    jobs = [line.job for line in lines if line.job is not None]
    faults += [
        Fault("not-a-job", f"{FIELD}: job {job.id}: its fields are empty: give it something to read", name)
        for job in jobs
        if not any(text.strip() for text in job.named_fields().values())
    ]
    faults += [
        Fault(
            "names-a-task",
            f"{FIELD}: job {job.id} names a task, though it fits none: take task out",
            name,
            value=job.tasks[0],
        )
        for job in jobs
        if job.tasks
    ]
    if faults:
        raise DataError(faults=faults)
    if not lines:
        words = "it holds no job: write one JSON object a line, or take the field out"
        raise DataError(faults=[Fault("file-empty", words, "fleet.yaml", field=FIELD, value=name)])
    return [job.named_fields() for job in jobs]
