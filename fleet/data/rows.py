"""A task's rows: read from its sources, brought to its fields, split and hashed.

What comes out has text in every input field and an output of the right type. Whether rows fit the
task's labels or schema, repeat or leak is judged in ``fleet.data.lint``; this module does not know.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fleet.data.record import Limits, Record
from fleet.data.sources import parse_json, read_source
from fleet.errors import DataError, Fault
from fleet.manifest import Kind, Manifest
from fleet.yaml_lines import shorten

__all__ = ["Row", "TaskRows", "collect_rows", "collect_task_rows", "condense", "load_task_rows", "read_rows"]


@dataclass(frozen=True, slots=True)
class Row:
    """One job with its wanted answer, and where it was written."""

    fields: dict[str, str]
    output: Any
    """The label, the text, or the JSON value of the record."""
    file: str
    line: int | None

    @property
    def place(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The rows of one task; ``digest`` is SHA-256 over their content, the order of ``train`` included."""

    train: Sequence[Row]
    eval: Sequence[Row]
    digest: str


def load_task_rows(root: Path, manifest: Manifest, limits: Limits | None = None) -> TaskRows:
    """The rows that ``manifest`` names. Raises DataError with every fault of reading."""
    rows, faults = collect_task_rows(root, manifest, limits)
    if faults:
        raise DataError(faults=condense(faults))
    return rows


def collect_task_rows(
    root: Path, manifest: Manifest, limits: Limits | None = None
) -> tuple[TaskRows, list[Fault]]:
    """The readable rows that ``manifest`` names, and every fault of the others."""

    def collect(sources: Sequence[str], field: str) -> tuple[list[Row], list[Fault]]:
        rows, faults = collect_rows(
            sources,
            folder=manifest.folder,
            root=root,
            inputs=manifest.input,
            columns=manifest.data.columns,
            kind=manifest.kind,
            limits=limits,
        )
        here = f"{manifest.folder}/task.yaml"
        # A source that leads nowhere is a fault of the manifest, not of a file.
        line = manifest.line_of(field)
        faults = [f if f.file else replace(f, file=here, line=line, field=field) for f in faults]
        if not rows and not faults:
            faults = [Fault("empty-split", "holds no rows: write some", here, line, field)]
        return rows, faults

    train, faults = collect(manifest.data.train, "data.train")
    held = manifest.data.eval
    if isinstance(held, float):
        whole = train
        train = [row for row in whole if _share(row) >= held]
        evaluation = [row for row in whole if _share(row) < held]
    else:
        evaluation, more = collect(held, "data.eval")
        faults += more
    return TaskRows(train, evaluation, _digest(train, evaluation)), faults


def read_rows(
    sources: Sequence[str],
    *,
    root: Path,
    folder: str = "",
    inputs: Sequence[str] = ("text",),
    columns: Mapping[str, str] | None = None,
    kind: Kind = "classification",
) -> list[Row]:
    """The rows of ``sources``, in order. Raises DataError with every fault."""
    rows, faults = collect_rows(
        sources, root=root, folder=folder, inputs=inputs, columns=columns or {}, kind=kind
    )
    if faults:
        raise DataError(faults=condense(faults))
    return rows


def collect_rows(
    sources: Sequence[str],
    *,
    root: Path,
    folder: str,
    inputs: Sequence[str],
    columns: Mapping[str, str],
    kind: Kind,
    limits: Limits | None = None,
) -> tuple[list[Row], list[Fault]]:
    """The readable rows of ``sources`` (paths and globs relative to ``folder``), and the faults."""
    rows: list[Row] = []
    faults: list[Fault] = []
    most = (limits or Limits()).rows
    for source in sources:
        for found in read_source(source, folder, root, limits):
            if isinstance(found, Fault):
                faults.append(found)
                continue
            if len(rows) == most:
                faults.append(
                    Fault("too-many-rows", f"more than {most} rows: use a part", found.file, found.line)
                )
                return rows, faults
            row = _row(found, inputs, columns, kind)
            if isinstance(row, Row):
                rows.append(row)
            else:
                faults += row
    return rows, faults


def condense(faults: Iterable[Fault], keep: int = 20) -> list[Fault]:
    """``faults`` with at most ``keep`` of one rule and field per file; the last kept counts the others."""
    listed = list(faults)
    totals = Counter((fault.file, fault.rule, fault.field) for fault in listed)
    seen: Counter[tuple[str, str, str]] = Counter()
    kept: list[Fault] = []
    for fault in listed:
        key = (fault.file, fault.rule, fault.field)
        seen[key] += 1
        if seen[key] < keep or totals[key] <= keep:
            kept.append(fault)
        elif seen[key] == keep:
            more = totals[key] - keep
            kept.append(replace(fault, message=f"{fault.message}; and {more} more like this"))
    return kept


def _row(record: Record, inputs: Sequence[str], columns: Mapping[str, str], kind: Kind) -> Row | list[Fault]:
    faults: list[Fault] = []
    values: dict[str, Any] = {}
    for name in (*inputs, "output"):
        column = columns.get(name, name)
        if column not in record.values:
            there = ", ".join(map(repr, list(record.values)[:10])) or "none"
            rule = f"has no column {column!r} for {name} (there are: {there}): add it or set data.columns"
            faults.append(Fault("missing-column", rule, record.file, record.line, column))
            continue
        value = record.values[column]
        wanted = "text"
        if name == "output" and kind == "extraction":
            value, wanted = _record_value(value), "a JSON object"
        if (wanted == "text" and _is_text(value)) or isinstance(value, dict):
            values[name] = value
        else:
            shown = "null" if value is None else shorten(value)
            faults.append(Fault("wrong-type", f"should be {wanted}", record.file, record.line, column, shown))
    if faults:
        return faults
    output = values.pop("output")
    return Row(values, output, record.file, record.line)


def _record_value(value: Any) -> Any:
    """A record's JSON value; formats without nesting hold it as text."""
    try:
        if isinstance(value, str):
            return parse_json(value)
        # Parquet and the hub have types that JSON lacks, such as dates.
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError):
        return str(value)
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _share(row: Row) -> float:
    """A number in [0, 1) that depends on the row's input alone, so equal inputs fall on one side."""
    content = json.dumps(["split-1", row.fields], ensure_ascii=False, sort_keys=True)
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") / 2**64


def _digest(train: Sequence[Row], evaluation: Sequence[Row]) -> str:
    whole = hashlib.sha256(b"rows-1")
    for rows, ordered in ((train, True), (evaluation, False)):
        lines = [json.dumps([row.fields, row.output], ensure_ascii=False).encode() for row in rows]
        whole.update(f"\n{len(lines)}\n".encode())
        for line in lines if ordered else sorted(lines):
            whole.update(hashlib.sha256(line).digest())
    return whole.hexdigest()
