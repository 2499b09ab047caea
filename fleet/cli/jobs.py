"""Jobs from JSON lines, and results as JSON lines that a later run can go on from.

One line in, one line out, in order; a line that is no job becomes a result with an error. A result
carries a digest of its input line, so that a run goes on only from results of the same jobs. Knows
nothing of how jobs are answered.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fleet.cli.output import json_line
from fleet.errors import InputError, JobError
from fleet.plain import plain

if TYPE_CHECKING:
    from fleet.job import Job, Result

MAX_LINE = 1_000_000
"""Bytes of the longest line that is read."""
KEYS = ("id", "text", "fields", "task")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of jobs: a job, or what is wrong with it."""

    id: str
    digest: str
    job: Job | None
    error: str = ""


def read_lines(stream: IO[bytes], task: str | None = None) -> Iterator[Line]:
    """Every line that is not blank; jobs that name no task get ``task``."""
    number = 0
    while raw := stream.readline(MAX_LINE + 1):
        number += 1
        if len(raw) > MAX_LINE:
            yield Line(
                str(number), _digest(raw, task), None, f"line {number} is longer than {MAX_LINE:,} bytes"
            )
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(MAX_LINE)
        elif raw.strip():
            yield _line(raw, number, task)


def _line(raw: bytes, number: int, task: str | None) -> Line:
    digest = _digest(raw, task)
    name = str(number)
    try:
        value = _object(raw)
        name = _text(value, "id", str(number), also=(int,))
        return Line(name, digest, _job(value, name, task))
    except JobError as error:
        return Line(name, digest, None, f"line {number}: {error}")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair may hide in an escape
    except (ValueError, RecursionError) as error:
        raise JobError(f"is not JSON in UTF-8 ({error})") from error
    if not isinstance(value, dict):
        raise JobError(f"should be an object with the keys {', '.join(KEYS)}")
    for key in value:
        if key not in KEYS:
            raise JobError(f"unknown key {key!r}; a job has {', '.join(KEYS)}")
    return value


def _text(value: Mapping[str, Any], key: str, default: str, *, also: tuple[type, ...] = ()) -> str:
    found = value.get(key, default)
    if isinstance(found, bool) or not isinstance(found, (str, *also)):
        raise JobError(f"{key} should be text")
    return str(found)


def _job(value: Mapping[str, Any], name: str, task: str | None) -> Job:
    from fleet.job import Job

    if ("text" in value) == ("fields" in value):
        raise JobError("should have either text or fields")
    named = _text(value, "task", "") if value.get("task") is not None else ""
    wanted = named or task
    if "text" in value:
        return Job(name, text=some_text(_text(value, "text", "")), task=wanted)
    fields = value["fields"]
    if (
        not isinstance(fields, dict)
        or not fields
        or not all(isinstance(text, str) for text in fields.values())
    ):
        raise JobError("fields should be an object of texts")
    return Job(name, fields=fields, task=wanted)


def some_text(text: str) -> str:
    """``text`` unless it is blank or no Unicode. Raises ``JobError``."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise JobError("the text is not UTF-8") from error
    if not text.strip():
        raise JobError("the text is empty: give the job something to read")
    return text


def _digest(raw: bytes, task: str | None) -> str:
    return hashlib.sha256(raw.strip() + b"\0" + (task or "").encode()).hexdigest()[:16]


def result_line(
    line: Line, result: Result | None, explained: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What is written for a line: the result, or the line's own error."""
    content: dict[str, Any] = {"id": line.id, "job": line.digest}
    if result is None:
        content.update(decision=None, answers=[], error=line.error, bad_job=True, code="bad-job", failed={})
    else:
        content.update({**plain(result), "id": line.id})
    if explained is not None:
        content["explained"] = plain(explained)
    return content


class ResultFile:
    """A file of results, taken up where an earlier run has left it; half a result at its end is replaced.

    Nothing is created or changed before the first write. Raises ``InputError`` when the file cannot be
    written, or when what is there does not come from the same jobs.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0
        self._half: list[Line] = []
        self._stream: IO[bytes] | None = None
        folder = path.parent
        if not folder.is_dir():
            raise InputError(f"--output {path}: folder {folder}/ does not exist: make it first")
        try:
            if path.exists():
                self._stream = path.open("r+b")
            elif not os.access(folder, os.W_OK):
                raise InputError(f"--output {path}: nothing can be written in {folder}/: name another place")
        except OSError as error:
            raise InputError(f"--output {path} cannot be written ({error.strerror}): name another") from error

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def resume(self, lines: Iterator[Line]) -> Iterator[dict[str, Any]]:
        """The results that are there, each taken for the next of ``lines``; ``left`` has the others."""
        for number, raw in enumerate(iter(self._stream.readline, b"") if self._stream else (), 1):
            if not raw.endswith(b"\n"):
                self._half = self._half_of(raw, number, next(lines, None))
                break
            kept = self._kept(raw, number)
            line = next(lines, None)
            if line is None or line.digest != kept["job"]:
                raise self._other_job(number)
            self._end += len(raw)
            yield kept

    def left(self, lines: Iterator[Line]) -> Iterator[Line]:
        """The lines that have no result yet, once ``resume`` has ended."""
        return chain(self._half, lines)

    def _half_of(self, raw: bytes, number: int, line: Line | None) -> list[Line]:
        """``line``, if ``raw`` is the beginning of its result: anything else belongs to somebody."""
        if line is None:
            raise self._no_result(number)
        start = json_line({"id": line.id, "job": line.digest}).encode()[:-1] + b", "
        if not (raw.startswith(start) or start.startswith(raw)):
            raise self._no_result(number)
        return [line]

    def _kept(self, raw: bytes, number: int) -> dict[str, Any]:
        try:
            kept = json.loads(raw)
            if {"id", "job", "error", "bad_job"} <= kept.keys():
                return dict(kept)
        except (ValueError, AttributeError):
            pass  # told below, as for every other thing that is no result
        raise self._no_result(number)

    def _no_result(self, number: int) -> InputError:
        return InputError(f"{self._path}:{number} is no result of fleet route: name another --output")

    def _other_job(self, number: int) -> InputError:
        return InputError(
            f"{self._path}:{number} is the result of another job than the input has there: "
            "name another --output, or delete the file"
        )

    def write(self, content: Mapping[str, Any]) -> None:
        if self._stream is None:
            self._stream = self._path.open("xb")  # one that another run has made meanwhile is not ours
        elif self._half:
            self._stream.truncate(self._end)
            self._stream.seek(self._end)
            self._half = []
        self._stream.write(json_line(content).encode() + b"\n")

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()
