"""Who sends the request that is being answered, and what that one may. Knows nothing of keys or HTTP."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """One who asks; ``name`` may be shown anywhere."""

    name: str
    tasks: frozenset[str] | None
    """The only ones that may be asked or seen; None is all."""
    per_minute: int | None = None
    """Jobs; None is no limit."""


ANYONE = Caller("-", None)
"""Where no keys are needed."""
NOBODY = Caller("-", frozenset())
"""Who has shown no key where one is needed."""

caller: ContextVar[Caller] = ContextVar("caller", default=ANYONE)
"""Set for each request by the gate."""
