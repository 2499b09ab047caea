"""JSON pointers (RFC 6901): names escaped for one, and the steps that one takes. Knows no schema."""

from __future__ import annotations

from typing import Any

__all__ = ["escape", "pointer_steps", "unescape"]


def pointer_steps(document: Any, pointer: str) -> tuple[str | int, ...]:
    """The keys and list indices that a JSON pointer goes through in ``document``."""
    steps: list[str | int] = []
    for name in pointer.split("/")[1:]:
        listed = isinstance(document, list)
        steps.append(int(name) if listed else unescape(name))
        inside = steps[-1] in (range(len(document)) if listed else document or ())
        document = document[steps[-1]] if inside else None
    return tuple(steps)


def escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def unescape(name: str) -> str:
    return name.replace("~1", "/").replace("~0", "~")
