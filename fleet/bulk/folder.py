"""A folder of results, one file for each part of the input, that a later run can go on with.

::

    out/_bulk.json         which input, cut how, answered how; written first
    out/part-00000.jsonl   results of the first part, in the order of the input; there whole or not at all
    out/_SUCCESS           what all of it amounts to; written last

Names that begin with ``_`` or ``.`` are passed over by what reads folders of data. Knows nothing of how
jobs are answered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fleet.bulk.results import Tally, tally_of
from fleet.bulk.source import Cut, Kind, Part, cut, kind_of
from fleet.errors import InputError

LAYOUT = 2
"""Another one is another way to cut or to name."""
MANIFEST, SUCCESS, LOCK = "_bulk.json", "_SUCCESS", ".lock"


@dataclass(frozen=True, slots=True)
class BulkOptions:
    """What must be the same in every run over one folder; ``fleet route`` has an option for each."""

    task: str | None
    top: int
    part_rows: int
    format: Kind
    all: bool = False


@contextmanager
def open_folder(
    path: Path,
    source: Path,
    *,
    task: str | None,
    top: int,
    part_rows: int,
    form: Kind | None,
    every: bool = False,
) -> Iterator[BulkFolder]:
    """The folder for the results of ``source``, made if need be, and nobody else's meanwhile.

    ``form`` is the input's own if not given. Raises ``InputError`` when it holds something else.
    """
    kind = kind_of(source)
    options = BulkOptions(task, top, part_rows, form or kind, every)
    try:
        path.mkdir(exist_ok=True)
        _check_ours(path)
        lock = FileLock(path / LOCK, timeout=0)
        lock.acquire()
    except FileNotFoundError as error:
        raise InputError(f"--output {path}: folder {path.parent}/ does not exist: make it first") from error
    except FileExistsError as error:
        raise InputError(
            f"--output {path} is a file; what a cluster answers goes into a folder: name another"
        ) from error
    except Timeout as error:
        raise InputError(f"--output {path}: another run writes there now: wait for it, or end it") from error
    except OSError as error:
        raise InputError(
            f"--output {path}: nothing can be written there ({error.strerror}): name another place"
        ) from error
    try:
        yield BulkFolder(path, source, kind, options)
    finally:
        lock.release()


def _check_ours(path: Path) -> None:
    """Before anything is written there."""
    names = {held.name for held in path.iterdir()}
    others = names - {LOCK, f".{MANIFEST}.new"}
    if others and MANIFEST not in names:
        raise InputError(
            f"--output {path} holds other things ({min(others)}) and no {MANIFEST}: "
            "name an empty folder, or one that is still to be made"
        )


class BulkFolder:
    """The folder of one input; its caller holds the lock."""

    def __init__(self, path: Path, source: Path, kind: Kind, options: BulkOptions) -> None:
        """Go through the input once. Raises ``InputError`` when the folder is another one's."""
        self.path = path
        self.source = source
        self.kind: Kind = kind
        self.options = options
        self._seen = source.stat()
        kept = self._kept()
        if kept is not None:
            self._check_options(kept["options"])
            self._check_input(kept["size"] == self._seen.st_size)
        self.cut: Cut = cut(source, kind, options.part_rows)
        if kept is not None:
            self._check_input(kept["sha256"] == self.cut.sha256)
        else:
            self._write(MANIFEST, _json(self._manifest()))
        for stale in path.glob(".*.new"):
            stale.unlink()

    def _manifest(self) -> dict[str, Any]:
        return {
            "layout": LAYOUT,
            "input": self.source.name,
            "size": self._seen.st_size,
            "sha256": self.cut.sha256,
            "rows": self.cut.rows,
            "parts": len(self.cut.parts),
            "options": asdict(self.options),
        }

    def _kept(self) -> dict[str, Any] | None:
        manifest = self.path / MANIFEST
        if not manifest.exists():
            return None
        try:
            kept = json.loads(manifest.read_bytes())
            if kept["layout"] == LAYOUT and {"size", "sha256", "options"} <= kept.keys():
                return dict(kept)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # told below
        raise InputError(f"{manifest} is of no release that this one can go on from: name another --output")

    def _check_options(self, kept: dict[str, Any]) -> None:
        now = asdict(self.options)
        other = [
            f"--{name.replace('_', '-')} was {_said(kept.get(name))} and is {_said(value)} now"
            for name, value in now.items()
            if (kept.get(name) or None) != (value or None)
        ]
        if other:
            raise InputError(
                f"--output {self.path} was begun with other options: {'; '.join(other)}. "
                "Go on with those, or name another --output"
            )

    def _check_input(self, same: bool) -> None:
        if not same:
            raise InputError(
                f"--output {self.path} holds the results of another file than {self.source} is now: "
                "name another --output"
            )

    # ---- parts

    def file_of(self, part: Part) -> Path:
        width = max(5, len(str(len(self.cut.parts) - 1)))
        return self.path / f"part-{part.number:0{width}d}.{self.options.format}"

    def done(self) -> Iterator[tuple[Part, Tally]]:
        """The parts that are there, with what they amount to. Raises ``InputError`` for a spoilt one."""
        for part in self.cut.parts:
            path = self.file_of(part)
            if not path.exists():
                continue
            try:
                tally = tally_of(path, self.options.format)
            except ValueError as error:
                raise self._no_part(path, str(error)) from error
            if tally.rows != part.rows:
                raise self._no_part(path, f"{tally.rows} results, not {part.rows}")
            yield part, tally

    def _no_part(self, path: Path, reason: str) -> InputError:
        return InputError(f"{path} was changed by somebody ({reason}): delete it, and it is made again")

    def publish(self, part: Part, content: bytes) -> None:
        """The file of a part, whole."""
        self._write(self.file_of(part).name, content)

    def reopen(self) -> None:
        """Not all of it is there, whatever an earlier run has said: parts may have been deleted."""
        (self.path / SUCCESS).unlink(missing_ok=True)

    def succeed(self, tally: Tally) -> None:
        """Say that all parts are there. Raises ``InputError`` when the input has changed meanwhile."""
        now = self.source.stat()
        if (now.st_size, now.st_mtime_ns) != (self._seen.st_size, self._seen.st_mtime_ns):
            raise InputError(
                f"{self.source} was changed while it was read, so that some results may be of what it was "
                "before: begin anew with another --output"
            )
        self._write(SUCCESS, _json({"rows": tally.rows, **asdict(tally), "parts": len(self.cut.parts)}))

    def _write(self, name: str, content: bytes) -> None:
        fresh = self.path / f".{name}.new"
        with fresh.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(self.path / name)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "given" if value else "not given"
    return "not given" if value is None else str(value)
