"""Every error that taskfleet raises on purpose. Knows nothing of the rest of the package.

::

    FleetError                    exit code 1: a failure of ours or of the machine
    ├── InputError                exit code 2: something a person wrote or typed
    │   ├── ProjectError          no fleet.yaml, a path that leaves the project
    │   ├── ManifestError         task.yaml, fleet.yaml or policy.yaml breaks its schema
    │   ├── DataError             rows that cannot be read or break their task
    │   ├── JobError              a job that no expert can take as it is
    │   └── BaseError             the base model cannot be had as asked
    ├── ArtifactError             an expert or router that must not be used
    │   ├── DigestError           bytes differ from what was registered
    │   └── SealError             other base, tokenizer or prompt than it was trained with
    ├── TrainingError             a training that cannot go on
    ├── RegistryError             MLflow answers no, or not at all
    ├── ClusterError              Ray cannot do what was asked
    └── OverloadError             more work than may wait: come again later

A message names the file and field, the rule, the value it got, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

__all__ = [
    "ArtifactError",
    "BaseError",
    "ClusterError",
    "DataError",
    "DigestError",
    "Fault",
    "FleetError",
    "InputError",
    "JobError",
    "ManifestError",
    "OverloadError",
    "ProjectError",
    "RegistryError",
    "SealError",
    "TrainingError",
    "suggest",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with what a person wrote, with everything needed to mend it."""

    rule: str
    """Stable kebab-case name of the broken rule, such as ``unknown-label``."""
    message: str
    """What is wrong and what to do, in one or two sentences."""
    file: str = ""
    """Path relative to the project root where there is one."""
    line: int | None = None
    """1-based line, where it is known."""
    field: str = ""
    """Dotted path of the field, such as ``adapter.rank``."""
    value: str = ""
    """The value that was found, shortened for display."""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = self.file + (f":{self.line}" if self.line is not None else "")
        parts = [part for part in (where, self.field) if part]
        got = f" (got {self.value})" if self.value else ""
        return f"{': '.join(parts)}{': ' if parts else ''}{self.message}{got} [{self.rule}]"


class FleetError(Exception):
    """Base of the tree; ``exit_code`` is what the command line exits with."""

    exit_code: ClassVar[int] = 1


class InputError(FleetError):
    """Something a person wrote or typed; carries every fault that was found."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str = "", faults: Sequence[Fault] = ()) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults)
        super().__init__("\n".join([*([message] if message else []), *map(str, self.faults)]))


class ProjectError(InputError):
    """There is no project here, or a path leaves it."""


class ManifestError(InputError):
    """A manifest or another declaration breaks its schema."""


class DataError(InputError):
    """Rows cannot be read, or break the task they belong to."""


class JobError(InputError):
    """A job that no expert can take as it is: missing field, too long, unknown task."""


class BaseError(InputError):
    """The base model cannot be had as asked."""


class ArtifactError(FleetError):
    """An expert or router artifact that must not be used."""


class DigestError(ArtifactError):
    """The bytes differ from those that were registered."""


class SealError(ArtifactError):
    """Made for another base, tokenizer or prompt template."""


class TrainingError(FleetError):
    """A training that cannot go on."""


class RegistryError(FleetError):
    """The registry refuses or cannot be reached."""


class ClusterError(FleetError):
    """Ray cannot do what was asked."""


class OverloadError(FleetError):
    """More work waits already than may; ``seconds`` is when to come again."""

    def __init__(self, message: str, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(message)


def suggest(name: str, known: Iterable[str], none: str = "none") -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(names) or none}"
