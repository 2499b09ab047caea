"""Rules for one row at a time: does it fit its task? Knows nothing of other rows or of the engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

from jsonschema import Draft202012Validator, ValidationError, validators

from fleet.data.rows import Row
from fleet.errors import Fault
from fleet.manifest import Manifest
from fleet.pattern import holds
from fleet.schema_values import property_order, resolved, verbatim_values
from fleet.yaml_lines import shorten

__all__ = ["row_faults"]

_CHARACTERS_PER_TOKEN = 4
"""Of English text with Gemma's tokenizer, roughly; only used where no tokenizer was given."""


def row_faults(
    manifest: Manifest, rows: list[Row], count_tokens: Callable[[str], int] | None = None
) -> Iterator[Fault]:
    """Every fault of each row by itself.

    Without ``count_tokens`` lengths are estimated from characters, and what seems too long is a
    warning instead of an error.
    """
    columns = manifest.data.columns
    answer = columns.get("output", "output")
    judge = _judge(manifest)
    for row in rows:
        report = partial(Fault, file=row.file, line=row.line)
        blank = [name for name, text in row.fields.items() if not text.strip()]
        if len(blank) == len(row.fields):
            names = ", ".join(columns.get(name, name) for name in blank)
            yield report("empty-input", "has an empty input: write one or drop the row", field=names)
        for rule, message, field, value in judge(row):
            yield report(rule, message, field=f"{answer}{field}", value=value)
        yield from _length_faults(manifest, row, count_tokens, report, answer)


_Found = Iterator[tuple[str, str, str, str]]


def _judge(manifest: Manifest) -> Callable[[Row], _Found]:
    """A function that yields (rule, message, field below the output, value) for a row's output."""
    if manifest.kind == "classification":
        return partial(_label_faults, tuple(manifest.labels or ()))
    if manifest.kind == "generation":
        return _text_faults
    schema = resolved(manifest.schema_ or {})
    return partial(_record_faults, schema, _Validator(schema))


def _pattern(validator: object, pattern: str, instance: object, schema: object) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not holds(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = validators.extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]
"""Reads patterns as the expert's grammar does."""


def _label_faults(labels: tuple[str, ...], row: Row) -> _Found:
    if row.output not in labels:
        near = [label for label in labels if label.casefold() == row.output.strip().casefold()]
        listed = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
        advice = f"write {near[0]}" if near else f"should be one of {listed}"
        yield "unknown-label", f"is not a label of the task: {advice}", "", shorten(row.output)


def _text_faults(row: Row) -> _Found:
    if not row.output.strip():
        yield "empty-output", "has an empty answer: write one or drop the row", "", shorten(row.output)


def _record_faults(schema: dict[str, object], validator: Draft202012Validator, row: Row) -> _Found:
    for error in sorted(
        validator.iter_errors(row.output), key=lambda error: list(map(str, error.absolute_path))
    ):
        field = "".join(f".{step}" for step in error.absolute_path)
        rule = "/".join(map(str, error.absolute_schema_path))
        yield (
            "schema-violation",
            f"breaks the schema's {rule}: {shorten(error.message, 160)}",
            field,
            shorten(error.instance),
        )
    for pointer, text in verbatim_values(schema, row.output):
        field = pointer.replace("/", ".")
        if not text:
            yield (
                "empty-verbatim",
                "copied text cannot be empty: leave it out, or null if allowed",
                field,
                "''",
            )
        elif not any(text in given for given in row.fields.values()):
            yield (
                "not-verbatim",
                "is not in the input, letter by letter, as x-verbatim asks",
                field,
                shorten(text),
            )


def _length_faults(
    manifest: Manifest,
    row: Row,
    count_tokens: Callable[[str], int] | None,
    report: Callable[..., Fault],
    answer: str,
) -> Iterator[Fault]:
    serving = manifest.serving
    given = "\n".join(row.fields.values()) if len(row.fields) == 1 else _lines(row)
    for rule, text, limit, setting, field in (
        ("row-too-long", given, serving.max_input_tokens, "max_input_tokens", ", ".join(row.fields)),
        ("answer-too-long", _answer(manifest, row), serving.max_output_tokens, "max_output_tokens", answer),
    ):
        if len(text.encode()) < limit:  # a token has at least one byte; one is left for the end
            continue
        tokens = count_tokens(text) if count_tokens else len(text) // _CHARACTERS_PER_TOKEN
        # The answer's end takes one token more.
        if tokens + (rule == "answer-too-long") > limit:
            about = "" if count_tokens else "about "
            message = f"is {about}{tokens} tokens long, over serving.{setting} = {limit}: "
            advice = "shorten the row or raise the limit"
            severity = "error" if count_tokens else "warning"
            yield report(rule, message + advice, field=field, value=str(tokens), severity=severity)


def _lines(row: Row) -> str:
    return "\n".join(f"{name}: {text}" for name, text in row.fields.items())


def _answer(manifest: Manifest, row: Row) -> str:
    """The answer at the length at which it is written; the engine alone renders it for training."""
    if manifest.kind != "extraction":
        return f" {row.output}"
    ordered = property_order(manifest.schema_ or {}, row.output)
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))
