"""What a caller asks of an answer itself, and a task's spec under it. Knows nothing of jobs or of networks.

A demand is held against the very version that answers: what it cannot keep is refused, never bent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fleet.engine.specs import LabelSpec, SchemaSpec, TaskSpec, TextSpec
from fleet.errors import JobError
from fleet.schema_agreement import disagreement

SHOWN_SCHEMA = 2000
"""Characters of a task's schema that are repeated to who asked for another one."""


class FormError(JobError):
    """The expert's answers do not have the form that was asked for."""


@dataclass(frozen=True, slots=True)
class Demand:
    """None leaves it to the task."""

    json: bool = False
    """The answer is to be a JSON object."""
    schema: Mapping[str, Any] | None = None
    """The answer is to be JSON that is valid under this JSON Schema, which may be anything."""
    max_output_tokens: int | None = None
    """Of a text or a record, if the task has no lower limit; a label is always whole."""
    temperature: float | None = None
    """Of a text, like the next three: labels and records are never drawn."""
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Strings before the first of which a text ends."""

    def __post_init__(self) -> None:
        # Whatever is let through here must not look like an expert's fault later.
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise ValueError(f"max_output_tokens must be at least 1 (got {self.max_output_tokens})")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must not be negative (got {self.temperature})")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1] (got {self.top_p})")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed must fit into 64 bits (got {self.seed})")
        if not all(stop.encode() for stop in self.stop):  # half a surrogate pair is a ValueError too
            raise ValueError("a stop string must not be empty")


def under(spec: TaskSpec, demand: Demand) -> TaskSpec:
    """The task's spec, changed as the demand asks. Raises ``FormError`` when its answers are other ones."""
    _check_form(spec, demand)
    constraint, limit = spec.constraint, spec.max_output_tokens
    if demand.max_output_tokens is not None and not isinstance(constraint, LabelSpec):
        limit = min(limit, demand.max_output_tokens)
    if isinstance(constraint, TextSpec):
        constraint = TextSpec(
            constraint.temperature if demand.temperature is None else demand.temperature,
            constraint.top_p if demand.top_p is None else demand.top_p,
            constraint.seed if demand.seed is None else demand.seed,
            (*constraint.stop, *demand.stop),
        )
    return replace(spec, constraint=constraint, max_output_tokens=limit)


def _check_form(spec: TaskSpec, demand: Demand) -> None:
    if not demand.json and demand.schema is None:
        return
    if isinstance(spec.constraint, LabelSpec):
        labels = ", ".join(spec.constraint.labels)
        raise FormError(
            f"{spec.name} answers with one of its labels as plain text, not with JSON: {labels:.500}"
        )
    if isinstance(spec.constraint, TextSpec):
        raise FormError(f"{spec.name} answers with free text, not with JSON")
    if demand.schema is None:
        return
    found = disagreement(demand.schema, spec.constraint.schema)
    if found is not None:
        raise FormError(
            f"the answers of {spec.name} need not be valid under this schema: {found}. "
            f"The schema of {spec.name} is {_shown(spec.constraint)}"
        )


def _shown(constraint: SchemaSpec) -> str:
    text = json.dumps(constraint.schema, ensure_ascii=False)
    return text if len(text) <= SHOWN_SCHEMA else f"{text[:SHOWN_SCHEMA]}…"
