"""A job as it comes in, and what comes back: decision, answers and receipts. Knows nothing of who answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.engine.specs import Weights
from fleet.errors import JobError
from fleet.routing.decision import Decision


@dataclass(frozen=True, slots=True)
class Job:
    """One incoming piece of work: a text or named fields, perhaps for a named task."""

    id: str
    text: str | None = None
    fields: Mapping[str, str] | None = None
    task: str | None = None

    def named_fields(self) -> Mapping[str, str]:
        """The fields; a bare text is the field ``text``. Raises ``JobError`` when there is neither."""
        if self.fields is not None:
            return self.fields
        if self.text is None:
            raise JobError("the job has neither a text nor fields")
        return {"text": self.text}


@dataclass(frozen=True, slots=True)
class Receipt:
    """Which exact weights answered, and what it took."""

    task: str
    version: int
    digest: str
    base_fingerprint: str
    router_version: int | None
    decision: str
    confidence: float
    input_tokens: int
    output_tokens: int
    weights: Weights
    """What the base's weights were multiplied as."""
    milliseconds: Mapping[str, float]
    """By stage, of the batch that the job travelled in."""


@dataclass(frozen=True, slots=True)
class Answer:
    task: str
    value: Any
    text: str
    confidence: float
    truncated: bool
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a job: a decision, and answers or the reason why there is none."""

    id: str
    decision: Decision | None
    answers: tuple[Answer, ...] = ()
    error: str | None = None
    """Why the expert that the job was routed to has not answered, or, without such a one, nobody has."""
    bad_job: bool = False
    """Whether the error is the job's own fault, so that it fails again until the job is mended."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Every expert that was asked and has not answered, with its reason."""
