"""Records from files: JSONL, CSV and Parquet, plain or gzipped, by path or glob inside the project.

Yields plain records with their place, and a :class:`~fleet.errors.Fault` for each one that cannot be
read, in the order of the file; never raises for what a file holds. Sizes are bounded, also of what a
gzip unpacks to. Knows nothing of tasks: which columns matter is the caller's business.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import posixpath
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from fleet.data.hub import hub_records
from fleet.data.record import Limits, Record
from fleet.errors import Fault

__all__ = ["parse_json", "read_source"]

FORMATS = (".jsonl", ".csv", ".parquet")
ONE_A_LINE = "holds one JSON array: write one object a line, without brackets around and commas between"
_GZIP_FAULTS = (gzip.BadGzipFile, EOFError, zlib.error)


def read_source(
    source: str, folder: str, root: Path, limits: Limits | None = None
) -> Iterator[Record | Fault]:
    """Every record of ``source``: a path or glob relative to ``folder`` below ``root``, or ``hf://``.

    A fault of the source itself, such as a path that leads nowhere, names no file.
    """
    limits = limits or Limits()
    if source.startswith("hf://"):
        yield from hub_records(source, limits)
        return
    base = PurePosixPath(folder)
    if PurePosixPath(source).is_absolute() or "\\" in source or "\0" in source:
        yield Fault("path-outside-project", "should be relative to the task's folder, with /", value=source)
        return
    if posixpath.normpath(base / source).split("/")[0] == "..":
        yield Fault("path-outside-project", "leads out of the project: keep data inside it", value=source)
        return
    found = _matches(root / base, source)
    inside = [path for path in found if path.resolve().is_relative_to(root.resolve())]
    if len(inside) < len(found):
        yield Fault("path-outside-project", "leads out of the project: keep data inside it", value=source)
        return
    if not found:
        yield Fault("no-such-file", "matches no file: create it or mend the path", value=source)
    for path in found:
        shown = path.resolve().relative_to(root.resolve()).as_posix()
        yield from _read_file(path, shown, limits)


def parse_json(text: str) -> Any:
    """``text`` as strict JSON. Raises ValueError for NaN, for a key given twice, for half surrogates."""
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character") from None
    return value


def _matches(folder: Path, source: str) -> list[Path]:
    """Files that ``source`` names; a glob in its order by name."""
    exact = folder / source
    if exact.is_file():
        return [exact]
    if not any(char in source for char in "*?["):
        return []
    first = min(i for i, part in enumerate(PurePosixPath(source).parts) if any(c in part for c in "*?["))
    parts = PurePosixPath(source).parts
    start = folder.joinpath(*parts[:first])
    try:
        return sorted(path for path in start.glob("/".join(parts[first:])) if path.is_file())
    except ValueError:  # such as ** that is not a whole part
        return []


def _read_file(path: Path, file: str, limits: Limits) -> Iterator[Record | Fault]:
    packed = path.suffix == ".gz"
    kind = path.with_suffix("").suffix if packed else path.suffix
    if kind not in FORMATS or (packed and kind == ".parquet"):
        known = ".jsonl, .csv (also with .gz) or .parquet"
        yield Fault("unknown-format", f"should end in {known}", file, value=path.name)
        return
    if path.stat().st_size > limits.file_bytes:
        yield Fault("file-too-large", f"is larger than {limits.file_bytes} bytes: split it", file)
        return
    try:
        if kind == ".parquet":
            yield from _parquet(path, file, limits)
            return
        with gzip.open(path) if packed else path.open("rb") as raw:
            bounded = _Bounded(raw, limits.file_bytes)
            yield from (_jsonl if kind == ".jsonl" else _csv)(bounded, file, limits)
    except _GZIP_FAULTS as error:
        yield Fault("unreadable-file", f"is not a sound gzip file ({error}): pack it again", file)
    except _TooLarge:
        yield Fault("file-too-large", f"unpacks to more than {limits.file_bytes} bytes: split it", file)
    except OSError as error:
        yield Fault("unreadable-file", f"cannot be read ({error.strerror or error}): mend its rights", file)


def _jsonl(stream: _Bounded, file: str, limits: Limits) -> Iterator[Record | Fault]:
    number = 0
    while line := stream.readline(limits.row_bytes + 1):
        number += 1
        if len(line) > limits.row_bytes:
            yield Fault("row-too-large", f"a row is longer than {limits.row_bytes} bytes", file, number)
            while line and not line.endswith(b"\n"):
                line = stream.readline(limits.row_bytes)
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if not text:
                continue
            value = parse_json(text)
        except UnicodeDecodeError:
            yield Fault("not-utf8", "is not UTF-8 text: save it as UTF-8", file, number)
        except ValueError as error:
            if number == 1 and text.startswith("["):
                yield Fault("unreadable-file", ONE_A_LINE, file, number, value=_start(line))
                return
            yield Fault("unreadable-row", f"is not a JSON object: {error}", file, number, value=_start(line))
        else:
            if isinstance(value, dict):
                yield Record(value, file, number)
            else:
                whole = number == 1 and isinstance(value, list) and all(isinstance(v, dict) for v in value)
                rule = ONE_A_LINE if whole else "is not a JSON object"
                yield Fault("unreadable-row", rule, file, number, value=_start(line))


def _csv(stream: _Bounded, file: str, limits: Limits) -> Iterator[Record | Fault]:
    text = io.TextIOWrapper(cast(IO[bytes], stream), encoding="utf-8-sig", newline="")
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        if len(header) == 1 and ";" in header[0]:
            rule = "has its columns between semicolons: save it with commas"
            yield Fault("unreadable-file", rule, file, 1, value=_start(header[0].encode()))
            return
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            yield Fault(
                "duplicate-column", "is in the header twice: rename one", file, 1, value=", ".join(repeated)
            )
            return
        line = reader.line_num + 1
        for cells in reader:
            if sum(map(len, cells)) > limits.row_bytes:
                yield Fault("row-too-large", f"a row is longer than {limits.row_bytes} bytes", file, line)
            elif cells and len(cells) != len(header):
                rule = f"has {len(cells)} cells under {len(header)} columns: quote cells that hold commas"
                yield Fault("unreadable-row", rule, file, line)
            elif cells:
                yield Record(dict(zip(header, cells, strict=True)), file, line)
            line = reader.line_num + 1
    except csv.Error as error:
        yield Fault("unreadable-row", f"is not CSV ({error}): mend the quotes", file, reader.line_num)
    except UnicodeDecodeError:
        yield Fault("not-utf8", "is not UTF-8 text: save it as UTF-8", file, reader.line_num + 1)
    finally:
        text.detach()


def _parquet(path: Path, file: str, limits: Limits) -> Iterator[Record | Fault]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            groups = range(table.metadata.num_row_groups)
            size = sum(table.metadata.row_group(group).total_byte_size for group in groups)
            if size > limits.file_bytes:
                yield Fault(
                    "file-too-large", f"unpacks to more than {limits.file_bytes} bytes: split it", file
                )
                return
            for batch in table.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    yield Record(values, file, None)
    except (pa.ArrowException, ValueError) as error:
        yield Fault("unreadable-file", f"is not a sound Parquet file ({str(error).splitlines()[0]})", file)


class _TooLarge(Exception):
    """More came out of a file than may."""


class _Bounded(io.BufferedIOBase):
    """Reads from another stream until ``limit`` bytes have come out, then raises :class:`_TooLarge`."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._left = stream, limit

    def readable(self) -> bool:
        return True

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._counted(self._stream.readline(-1 if size is None else size))

    def read(self, size: int | None = -1, /) -> bytes:
        return self._counted(self._stream.read(-1 if size is None else size))

    def read1(self, size: int = -1, /) -> bytes:
        return self._counted(self._stream.read1(size))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise _TooLarge
        return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"the key {key!r} is given twice")
        out[key] = value
    return out


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _start(line: bytes) -> str:
    text = line.decode("utf-8", errors="replace").strip()
    return text if len(text) <= 60 else text[:57] + "..."
