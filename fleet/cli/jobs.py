"""A file of results that a later run can go on from. Knows nothing of how jobs are answered."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, Any

from fleet.errors import InputError
from fleet.lines import Line
from fleet.plain import json_line


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
