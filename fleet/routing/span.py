"""How long the jobs of some tasks are, and in which languages. Knows no scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fleet.routing.decision import Cause
from fleet.routing.evidence import Evidence
from fleet.routing.language import identify

__all__ = ["Span"]

SHARE = 0.05
"""Of a task's rows of which the language is known: one below that is not the task's."""
LEAST = 2
"""Rows in a language, at least; a task of one language may have fewer."""
FACTOR = 2
"""Longer than the longest row, or shorter than the shortest, by so much is another kind of job."""


@dataclass(frozen=True, slots=True)
class Span:
    """Of some tasks together: a language that one of them knows is known."""

    shortest: int
    """Tokens."""
    longest: int
    languages: frozenset[str]

    @classmethod
    def of(cls, tasks: Iterable[Evidence]) -> Span:
        """Over at least one task."""
        shortest, longest = [], []
        known: set[str] = set()
        for task in tasks:
            shortest.append(int(task.tokens.min()))
            longest.append(int(task.tokens.max()))
            bar = max(LEAST, SHARE * sum(task.languages.values()))
            usual = max(task.languages.values(), default=0)
            known.update(name for name, count in task.languages.items() if count >= min(bar, usual))
        return cls(min(shortest), max(longest), frozenset(known))

    def beyond(self, text: str, tokens: int) -> tuple[Cause, str]:
        """Why a job that fits nothing may do so, and its words; plainly ``no_fit`` if nothing stands out."""
        if tokens * FACTOR <= self.shortest or tokens <= 1:
            return (
                "too_short",
                f"{_tokens(tokens)} are too little to tell (tasks have {self.shortest} to {self.longest}); ",
            )
        if tokens > FACTOR * self.longest:
            return (
                "too_long",
                f"{_tokens(tokens)}, longer than any job of a task ({self.longest} or less); ",
            )
        found = identify(text) if self.languages else None
        if found is not None and found[0] not in self.languages:
            known = ", ".join(sorted(self.languages))
            return "language", f"the language looks like {found[0]}, tasks know {known}; "
        return "no_fit", ""


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count} tokens"
