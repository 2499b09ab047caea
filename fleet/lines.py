"""Jobs from lines of JSON or rows of a table, and what is written for each.

One line in, one result out, in order; a line that is no job becomes a result with an error. A result
carries a digest of its input line, so that a run goes on only from results of the same jobs. Knows
nothing of how jobs are answered, or of files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fleet.errors import JobError
from fleet.plain import plain

if TYPE_CHECKING:
    from fleet.job import Job, Result

MAX_LINE = 1_000_000
"""Bytes of the longest line that is read."""
KEYS = ("id", "text", "fields", "task", "all")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of jobs: a job, or what is wrong with it."""

    id: str
    digest: str
    job: Job | None
    error: str = ""


class LineStream(Protocol):
    """A file that is open in binary mode, as far as it is needed."""

    def readline(self, size: int, /) -> bytes: ...


def raw_lines(stream: LineStream) -> Iterator[tuple[bytes, int]]:
    """Every line, blank ones too, and its length in bytes; of one beyond ``MAX_LINE`` only the beginning."""
    while raw := stream.readline(MAX_LINE + 1):
        length = len(raw)
        if length > MAX_LINE:
            rest = raw
            while rest and not rest.endswith(b"\n"):
                rest = stream.readline(MAX_LINE)
                length += len(rest)
        yield raw, length


def is_blank(raw: bytes) -> bool:
    """Whether a line, as ``raw_lines`` gives it, holds nothing, so that nothing is written for it."""
    return len(raw) <= MAX_LINE and not raw.strip()


def read_lines(stream: LineStream, task: str | None = None, *, every: bool = False) -> Iterator[Line]:
    """Every line that is not blank; jobs that name no task get ``task``, or ``every`` task that they need."""
    for number, (raw, _) in enumerate(raw_lines(stream), 1):
        if not is_blank(raw):
            yield read_line(raw, number, task, every=every)


def read_line(raw: bytes, number: int, task: str | None, kind: str = "line", *, every: bool = False) -> Line:
    """One line that is not blank, as ``raw_lines`` gives it; errors call it a ``kind``."""
    digest = _digest(raw, task, every)
    name = str(number)
    try:
        if len(raw) > MAX_LINE:
            raise JobError(f"is longer than {MAX_LINE:,} bytes")
        value = _object(raw)
        name = _text(value, "id", str(number), also=(int,))
        return Line(name, digest, _job(value, name, task, every))
    except JobError as error:
        return Line(name, digest, None, f"{kind} {number}: {error}")


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


def _job(value: Mapping[str, Any], name: str, task: str | None, every: bool) -> Job:
    from fleet.job import Job

    if ("text" in value) == ("fields" in value):
        raise JobError("should have either text or fields")
    named = _text(value, "task", "") if value.get("task") is not None else ""
    own = value.get("all")
    if not isinstance(own, bool | None):
        raise JobError("all should be true or false")
    wanted = named or task
    if own and wanted:
        raise JobError("has both all and task: with a task no router is asked, leave one of them out")
    all_ = not wanted and (every if own is None else own)
    if "text" in value:
        return Job(name, text=some_text(_text(value, "text", "")), task=wanted, all=all_)
    fields = value["fields"]
    if (
        not isinstance(fields, dict)
        or not fields
        or not all(isinstance(text, str) for text in fields.values())
    ):
        raise JobError("fields should be an object of texts")
    return Job(name, fields=fields, task=wanted, all=all_)


def some_text(text: str) -> str:
    """``text`` unless it is blank or no Unicode. Raises ``JobError``."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise JobError("the text is not UTF-8") from error
    if not text.strip():
        raise JobError("the text is empty: give the job something to read")
    return text


def _digest(raw: bytes, task: str | None, every: bool) -> str:
    asked = (task or "").encode() + (b"\0all" if every else b"")
    return hashlib.sha256(raw.strip() + b"\0" + asked).hexdigest()[:16]


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
