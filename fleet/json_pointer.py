"""JSON pointers (RFC 6901): names escaped for one, and the steps that one takes. Knows no schema."""

from __future__ import annotations

from typing import Any

__all__ = ["escape", "pointer_steps", "unescape"]


def pointer_steps(document: Any, pointer: str) -> tuple[str | int, ...]:
    """The keys and list indices that a JSON pointer goes through in ``document``.

    Raises ``ValueError`` for a step into a list that is not a number.
    """
    steps: list[str | int] = []
    for name in pointer.split("/")[1:]:
        listed = isinstance(document, list)
        steps.append(int(name) if listed else unescape(name))
        inside = steps[-1] in (range(len(document)) if listed else document or ())
        document = document[steps[-1]] if inside else None
    return tuple(steps)


def escape(name: str) -> str:
    """A name as one step of a pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def unescape(name: str) -> str:
    """The name that a step of a pointer stands for."""
    return name.replace("~1", "/").replace("~0", "~")
