"""A file of many jobs, cut into parts that can be answered one by one: where each begins, what is in it.

JSON lines are cut at the ends of lines and found again by their bytes, Parquet by its rows. The same file
is always cut the same way. Nothing is held but one line, or a few rows. Knows nothing of results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from fleet.errors import InputError
from fleet.lines import KEYS, MAX_LINE, Line, LineStream, is_blank, raw_lines, read_line

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

Kind = Literal["jsonl", "parquet"]
PART_BYTES = 16 * MAX_LINE
"""After which a part of long lines or rows ends, however few they are."""
READ_ROWS = 16
"""Rows of Parquet that are in memory together: each may be as long as a line, or longer and then refused."""
BUFFER = 2**20
PARQUET, GZIP, ZSTD = b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
"""How such files begin."""


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a file that is answered and written together."""

    number: int
    start: int
    """First byte; of Parquet, first row."""
    end: int
    """Where the next part starts."""
    first: int
    """Number of its first line or row, which count from 1."""
    rows: int
    """Jobs in it, good or bad: every row, every line that is not blank."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A whole file in parts."""

    sha256: str
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def kind_of(path: Path) -> Kind:
    """By what the file begins with. Raises ``InputError`` for one that is compressed."""
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == PARQUET:
        return "parquet"
    if start.startswith((GZIP, ZSTD)):
        raise InputError(f"{path} is compressed, so that no part of it can be read alone: unpack it first")
    return "jsonl"


def cut(path: Path, kind: Kind, rows: int) -> Cut:
    """Go through a file once and cut it into parts of ``rows`` jobs, the last one of what is left.

    Raises ``InputError`` for Parquet that holds no jobs.
    """
    with path.open("rb") as stream:
        if kind == "jsonl":
            hashed = _Hashed(stream)
            parts = tuple(_cut_lines(hashed, rows))
            return Cut(hashed.digest.hexdigest(), parts)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    with _parquet(path) as table:
        _check_columns(path, table)
        try:
            return Cut(digest, tuple(_cut_rows(table, rows)))
        except (OSError, ValueError) as error:  # the latter are pyarrow's
            raise InputError(f"{path} cannot be read: {error}") from error


def read_part(path: Path, kind: Kind, part: Part, task: str | None, *, every: bool = False) -> list[Line]:
    """What is in a part; jobs that name no task get ``task``, or ``every`` task that they need.

    Raises ``InputError`` when the file is not the one any more that was cut.
    """
    try:
        lines = list(_lines(path, part, task, every) if kind == "jsonl" else _rows(path, part, task, every))
    except (OSError, ValueError) as error:  # the latter are pyarrow's
        raise InputError(f"{path} cannot be read any more: {error}") from error
    if len(lines) != part.rows:
        raise InputError(f"{path} was changed while it was read: begin anew with another --output")
    return lines


# ---- JSON lines


class _Hashed:
    """A file that is digested as it is read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def readline(self, size: int, /) -> bytes:
        raw = self._stream.readline(size)
        self.digest.update(raw)
        return raw


def _cut_lines(stream: LineStream, rows: int) -> Iterator[Part]:
    number = start = end = held = 0
    first = 1
    line = 0
    for line, (raw, length) in enumerate(raw_lines(stream), 1):
        end += length
        held += not is_blank(raw)
        if held == rows or (held and end - start >= PART_BYTES):
            yield Part(number, start, end, first, held)
            number, start, first, held = number + 1, end, line + 1, 0
    if held:
        yield Part(number, start, end, first, held)


def _lines(path: Path, part: Part, task: str | None, every: bool) -> Iterator[Line]:
    left = part.end - part.start
    with path.open("rb") as stream:
        stream.seek(part.start)
        for number, (raw, length) in enumerate(raw_lines(stream), part.first):
            if not is_blank(raw):
                yield read_line(raw, number, task, every=every)
            left -= length
            if left <= 0:
                return


# ---- Parquet


def _parquet(path: Path) -> ParquetFile:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path, buffer_size=BUFFER)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet that can be read: {error}") from error


def _check_columns(path: Path, table: ParquetFile) -> None:
    names = table.schema_arrow.names
    others = [name for name in names if name not in KEYS]
    if others or not {"text", "fields"} & set(names):
        raise InputError(
            f"{path} has the columns {', '.join(names)}; a job has {', '.join(KEYS)}, "
            "and text or fields must be there: rename columns, or leave some out"
        )


def _cut_rows(table: ParquetFile, rows: int) -> Iterator[Part]:
    number = start = end = held = 0
    for batch in table.iter_batches(batch_size=READ_ROWS, use_threads=False):
        for at in range(batch.num_rows):
            end += 1
            held += batch.slice(at, 1).nbytes
            if end - start == rows or held >= PART_BYTES:
                yield Part(number, start, end, start + 1, end - start)
                number, start, held = number + 1, end, 0
    if end > start:
        yield Part(number, start, end, start + 1, end - start)


def _rows(path: Path, part: Part, task: str | None, every: bool) -> Iterator[Line]:
    """Only the row groups that hold some of them are read, each from its beginning."""
    with _parquet(path) as table:
        groups: list[int] = []
        before = seen = 0
        for group in range(table.metadata.num_row_groups):
            after = seen + table.metadata.row_group(group).num_rows
            if seen < part.end and after > part.start:
                before = before if groups else part.start - seen
                groups.append(group)
            seen = after
        left, number = part.rows, part.first
        for batch in table.iter_batches(batch_size=READ_ROWS, row_groups=groups, use_threads=False):
            wanted = batch.slice(before, left)
            before = max(0, before - batch.num_rows)
            left -= wanted.num_rows
            for at in range(wanted.num_rows):
                yield _row(wanted.slice(at, 1), number, task, every)
                number += 1
            if not left:
                return


def _row(batch: RecordBatch, number: int, task: str | None, every: bool) -> Line:
    try:
        (row,) = batch.to_pylist()
    except UnicodeDecodeError as error:
        return Line(str(number), "", None, f"row {number}: is not UTF-8 ({error})")
    return read_line(_as_json(row), number, task, "row", every=every)


def _as_json(row: dict[str, Any]) -> bytes:
    """The line of JSON that would say the same.

    What is null in a table is left out of a line; what JSON cannot hold is null there, and refused.
    """
    fields = row.get("fields")
    if isinstance(fields, list) and all(isinstance(pair, tuple) for pair in fields):  # how a map comes
        fields = dict(fields)
    if isinstance(fields, dict):
        row = {**row, "fields": {name: text for name, text in fields.items() if text is not None}}
    held = {key: value for key, value in row.items() if value is not None}
    return json.dumps(held, ensure_ascii=False, default=lambda value: None).encode()
