"""What a poison input is: a request, and what may come of it. Knows nothing of any service.

Two kinds: what a client of HTTP can send, and bytes that no such client would.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

JOBS, CHAT, COMPLETIONS = "/v1/jobs", "/v1/chat/completions", "/v1/completions"
JSON = "application/json"
Then = Literal["waits", "ends", "leaves"]
"""What a client does that has sent all: waits for an answer; says first that no more will come; goes."""
DROPPED = 0
"""In place of a status: the connection was closed without one."""


@dataclass(frozen=True, slots=True)
class Poison:
    """A request that a client of HTTP can send."""

    name: str
    content: bytes
    statuses: tuple[int, ...]
    """Those that are right."""
    said: str = ""
    """What must be said where it is refused."""
    path: str = JOBS
    method: str = "POST"
    headers: tuple[tuple[bytes, bytes], ...] = ((b"Content-Type", JSON.encode()),)
    declared: bool = True
    """Whether the length is told beforehand."""


@dataclass(frozen=True, slots=True)
class Wire:
    """Bytes on a connection of their own, piece by piece, whatever they are."""

    name: str
    pieces: tuple[bytes, ...]
    statuses: tuple[int, ...]
    """Those that are right, perhaps ``DROPPED``."""
    then: Then = "waits"


Case = Poison | Wire


def case(name: str, body: Any, status: int, said: str = "", path: str = JOBS, **headers: str) -> Poison:
    """A body, written as JSON unless it is text; ``headers`` stand beside its type, or in its place."""
    content = body if isinstance(body, str) else json.dumps(body)
    named = {"content-type": JSON, **{key.replace("_", "-"): value for key, value in headers.items()}}
    sent = tuple((key.encode(), value.encode()) for key, value in named.items() if value)
    return Poison(name, content.encode("utf-8", "surrogatepass"), (status,), said, path, headers=sent)


def nested(levels: int, inner: str = "1") -> str:
    return "[" * levels + inner + "]" * levels
