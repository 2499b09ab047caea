"""What a source of rows yields: plain values with their place. Knows no format and no task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Limits", "Record"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read from outside before we refuse; bytes are counted unpacked."""

    file_bytes: int = 2**30
    row_bytes: int = 2**20
    rows: int = 2_000_000


@dataclass(frozen=True, slots=True)
class Record:
    """One record as its file holds it; ``line`` is None where the format has no lines."""

    values: dict[str, Any]
    file: str
    line: int | None
