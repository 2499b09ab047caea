"""Results of a part as the bytes of its file, and what they amount to. Knows nothing of folders."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.bulk.source import Kind
from fleet.errors import FleetError, InputError
from fleet.plain import json_line


@dataclass(frozen=True, slots=True)
class Tally:
    """How many jobs came to what."""

    answered: int = 0
    undecided: int = 0
    """Given to nobody on purpose: the router asks back or finds no expert."""
    bad_jobs: int = 0
    failed: int = 0

    @classmethod
    def of(cls, contents: Iterable[Mapping[str, Any]]) -> Tally:
        """Of results as ``fleet.lines.result_line`` makes them. Raises ``KeyError`` for what is none."""
        counts = dict.fromkeys(cls.__dataclass_fields__, 0)
        for content in contents:
            if content["error"] is None:
                counts["answered" if content["answers"] else "undecided"] += 1
            else:
                counts["bad_jobs" if content["bad_job"] else "failed"] += 1
        return cls(**counts)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.answered + other.answered,
            self.undecided + other.undecided,
            self.bad_jobs + other.bad_jobs,
            self.failed + other.failed,
        )

    @property
    def rows(self) -> int:
        return self.answered + self.undecided + self.bad_jobs + self.failed

    @property
    def exit_code(self) -> int:
        """A failure of ours says more than bad input, and bad input more than nothing."""
        if self.failed:
            return FleetError.exit_code
        return InputError.exit_code if self.bad_jobs else 0


def encode(contents: Sequence[Mapping[str, Any]], form: Kind) -> bytes:
    """The file of a part.

    Parquet has what people ask for in columns of its own, of the first expert that answered, and the whole
    result as JSON in the last one.
    """
    if form == "jsonl":
        return b"".join(json_line(content).encode() + b"\n" for content in contents)
    import pyarrow
    from pyarrow.parquet import write_table

    text, whole, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    columns = {
        "id": text,
        "decision": text,
        "task": text,
        "answer": text,
        "confidence": real,
        "version": whole,
        "error": text,
        "code": text,
        "bad_job": pyarrow.bool_(),
        "result": text,
    }
    table = pyarrow.Table.from_pylist([_row(content) for content in contents], pyarrow.schema(columns))
    stream = io.BytesIO()
    write_table(table, stream, compression="zstd")
    return stream.getvalue()


def _row(content: Mapping[str, Any]) -> dict[str, Any]:
    answer = next(iter(content["answers"]), None)
    decision = content["decision"]
    return {
        "id": content["id"],
        "decision": decision and decision["kind"],
        "task": answer and answer["task"],
        "answer": answer and answer["text"],
        "confidence": answer and answer["confidence"],
        "version": answer and answer["receipt"]["version"],
        "error": content["error"],
        "code": content["code"],
        "bad_job": content["bad_job"],
        "result": json_line(content),
    }


def tally_of(path: Path, form: Kind) -> Tally:
    """What the file of a part amounts to. Raises ``ValueError`` when it is none."""
    try:
        if form == "jsonl":
            with path.open("rb") as stream:
                return Tally.of(map(json.loads, stream))
        from pyarrow.parquet import read_table

        return Tally.of(map(json.loads, read_table(path, columns=["result"])["result"].to_pylist()))
    except (KeyError, TypeError, ValueError, OSError) as error:  # pyarrow's errors are among them
        raise ValueError(str(error)) from error
