"""From a YAML file that a person wrote to a checked pydantic model, or to every fault in it at once.

Shared by manifests, ``fleet.yaml`` and other declarations. Knows no particular model. A model adds
rules that join several fields by defining ``problems(self) -> Iterable[Problem]``; they are judged even
when other fields are broken, as long as the fields that they join are sound.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from fleet.errors import Fault, ManifestError
from fleet.yaml_lines import Document, Step, read_yaml, shorten

__all__ = ["Declared", "Problem", "Section", "load_declared"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken rule between fields; ``joins`` names the top-level fields it depends on."""

    rule: str
    message: str
    place: tuple[Step, ...]
    value: Any = None
    joins: tuple[str, ...] = ()


class Section(BaseModel):
    """A part of a declaration: strict about types, refusing what it does not know, immutable."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Declared(Section):
    """A whole declaration. A subclass lists ``stand_ins``: valid values for its required fields."""

    stand_ins: ClassVar[Mapping[str, Any]] = {}
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)

    def line_of(self, field: str) -> int | None:
        """1-based line on which the dotted ``field`` was written; None if it was not, or not in a file."""
        return self._lines.get(field)

    def problems(self) -> Iterable[Problem]:
        """Every rule between fields that this declaration breaks."""
        return ()

    @model_validator(mode="after")
    def _rules_between_fields(self) -> Self:
        found = list(self.problems())
        if found:
            text = "; ".join(f"{'.'.join(map(str, p.place))}: {p.message}" for p in found)
            raise PydanticCustomError("rules", "{text}", {"text": text, "found": found})
        return self


Model = TypeVar("Model", bound=Declared)


def load_declared(
    path: Path,
    file: str,
    model: type[Model],
    also: Callable[[Mapping[str, Any]], Iterable[Problem]] | None = None,
) -> Model:
    """Read and check the declaration at ``path``, named ``file`` in messages.

    ``also`` judges what was written by rules that the model alone cannot know. Raises ManifestError
    with every fault that was found.
    """
    document = read_yaml(path, file)
    raw = document.value
    if not isinstance(raw, dict):
        empty = raw is None and not document.faults
        rule = ("is empty: it " if empty else "") + "must be a mapping of fields to values"
        shown = "" if empty else shorten(raw)
        raise ManifestError(
            faults=[*document.faults, Fault("wrong-type", rule, file, document.line(()), value=shown)]
        )
    faults = list(document.faults)
    faults += [_broken_rule(document, problem) for problem in (also(raw) if also else ())]
    read: Model | None = None
    try:
        read = model.model_validate(raw)
    except ValidationError as error:
        faults += _faults(error, document, model)
        broken = {str(e["loc"][0]) for e in error.errors(include_context=False) if e["loc"]}
        if broken:
            faults += _rules_despite(raw, document, model, broken)
    if faults or read is None:
        order = sorted(dict.fromkeys(faults), key=lambda fault: fault.line or 0)
        raise ManifestError(faults=order)
    read._lines = {".".join(map(str, place)): line for place, line in document.lines.items()}
    return read


def _rules_despite(
    raw: dict[str, Any], document: Document, model: type[Declared], broken: set[str]
) -> list[Fault]:
    """Judge the rules between fields with the broken top-level fields left out or stood in for."""
    names = {name for key, info in model.model_fields.items() for name in (key, info.alias) if name}
    mended = {key: value for key, value in raw.items() if key in names and key not in broken}
    for key, value in model.stand_ins.items():
        mended.setdefault(key, value)
    try:
        model.model_validate(mended)
    except ValidationError as error:
        return _faults(error, document, model, unless=broken)
    return []


def _faults(
    error: ValidationError, document: Document, model: type[Declared], unless: set[str] | None = None
) -> list[Fault]:
    faults: list[Fault] = []
    for detail in error.errors(include_url=False):
        if detail["type"] == "rules":
            for problem in detail["ctx"]["found"]:
                if not set(problem.joins) & (unless or set()):
                    faults.append(_broken_rule(document, problem))
        elif unless is None:
            faults.append(_fault(detail, document, model))
    return faults


def _fault(detail: ErrorDetails, document: Document, model: type[Declared]) -> Fault:
    place, kind = _written(detail["loc"], document), detail["type"]
    shown = "null" if detail["input"] is None else shorten(detail["input"])
    if kind == "missing":
        return _at(document, "missing-field", "is required: add it", place)
    if kind == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        advice = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return _at(document, "unknown-field", f"is not a known field; {advice}", place, shown)
    rule = _RULES.get(kind, kind if "-" in kind else "invalid-value")
    message = detail["msg"].removeprefix("Input should be ").replace(" after validation", "")
    message = message.replace("String should match pattern", "should match the pattern")
    if rule in ("wrong-type", "not-a-choice", "out-of-range", "wrong-length"):
        message = "should be " + message if message != detail["msg"] else message[0].lower() + message[1:]
    return _at(document, rule, message, place, shown)


def _broken_rule(document: Document, problem: Problem) -> Fault:
    shown = "" if problem.value is None else shorten(problem.value)
    return _at(document, problem.rule, problem.message, problem.place, shown)


def _at(document: Document, rule: str, message: str, place: tuple[Step, ...], shown: str = "") -> Fault:
    return Fault(rule, message, document.file, document.line(place), ".".join(map(str, place)), shown)


def _written(loc: tuple[Step, ...], document: Document) -> tuple[Step, ...]:
    """``loc`` without the steps that pydantic adds for unions and key checks."""
    place: tuple[Step, ...] = ()
    for index, step in enumerate(loc):
        if (*place, step) in document.lines or index == len(loc) - 1:
            place = (*place, step)
    return place[:-1] if place and place[-1] == "[key]" else place


def _fields_at(model: type[BaseModel], place: tuple[Step, ...]) -> list[str]:
    """The fields that may be written at ``place``."""
    for step in place:
        info = next((i for k, i in model.model_fields.items() if step in (k, i.alias)), None)
        inner = [] if info is None else [a for a in _parts(info.annotation) if issubclass(a, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return [info.alias or key for key, info in model.model_fields.items()]


def _parts(annotation: Any) -> list[type]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for part in typing.get_args(annotation) if isinstance(part, type)]
    return [annotation] if isinstance(annotation, type) else []


_RULES = {
    **dict.fromkeys(
        (
            "string_type", "int_type", "float_type", "bool_type", "list_type", "dict_type", "tuple_type",
            "model_type", "int_from_float", "model_attributes_type", "none_required",
        ),
        "wrong-type",
    ),
    **dict.fromkeys(("literal_error", "enum"), "not-a-choice"),
    **dict.fromkeys(
        (
            "greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number",
            "int_parsing_size",
        ),
        "out-of-range",
    ),
    **dict.fromkeys(("too_short", "too_long", "string_too_short", "string_too_long"), "wrong-length"),
    "string_pattern_mismatch": "bad-name",
}  # fmt: skip
"""What pydantic calls a fault, and what we call it."""
