"""A project's own jobs of nobody: the file that ``routing.out_of_scope_jobs`` names. Knows no models."""

from __future__ import annotations

from collections.abc import Mapping

from fleet.errors import DataError, Fault
from fleet.lines import read_lines
from fleet.project import Project

__all__ = ["FIELD", "read_foreign"]

FIELD = "routing.out_of_scope_jobs"


def read_foreign(project: Project) -> list[Mapping[str, str]]:
    """The fields of each job; none where the project names no file.

    Raises ``DataError`` with every line that is no job, ``ProjectError`` for a file outside the project.
    """
    name = project.config.routing.out_of_scope_jobs
    if name is None:
        return []
    try:
        with project.resolve(name).open("rb") as stream:
            lines = list(read_lines(stream))
    except OSError as error:
        words = f"it cannot be read ({error.strerror}): name a file of jobs, or take the field out"
        raise DataError(
            faults=[Fault("file-unreadable", words, "fleet.yaml", field=FIELD, value=name)]
        ) from error
    if faults := [Fault("not-a-job", line.error, name) for line in lines if line.job is None]:
        raise DataError(faults=faults)
    if not lines:
        words = "it holds no job: write one JSON object a line, or take the field out"
        raise DataError(faults=[Fault("file-empty", words, "fleet.yaml", field=FIELD, value=name)])
    return [line.job.named_fields() for line in lines if line.job is not None]
