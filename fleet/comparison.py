"""How a challenger's answers compare with the champion's. Knows nothing of who asked whom, or when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from fleet.registry.version import VersionInfo

WORDS = 200
"""Of each text that are compared: it takes cubic time where words repeat, and jobs wait meanwhile."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two versions of one task; figures of one pair say nothing about another."""

    task: str
    champion: tuple[int, str]
    """Version and digest."""
    challenger: tuple[int, str]

    @classmethod
    def of(cls, champion: VersionInfo, challenger: VersionInfo) -> Pair:
        return cls(
            champion.task,
            (champion.version, champion.digest),
            (challenger.version, challenger.digest),
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sums over jobs that a champion answered and its challenger was asked afterwards; they add up."""

    asked: int = 0
    agreed: int = 0
    """Answers with the same value: the label, the whole record, the text to the letter."""
    failed: int = 0
    """Of the jobs asked, those that the challenger has no answer to."""
    skipped: int = 0
    """Jobs of the share that it was not asked, because more waited than may."""
    texts: int = 0
    """Of the jobs that both answered, those whose answer is a free text."""
    alike: float = 0.0
    """How much of the texts' words is the same in the same order, 0 to 1 each, summed."""
    fields_agreed: Mapping[str, int] = field(default_factory=dict)
    """Of records: by field, how often it was the same."""
    champion_ms: float = 0.0
    """Of the expert's stage, on the jobs that both answered; with whatever ran beside it."""
    challenger_ms: float = 0.0
    """The same jobs; nothing else ran."""
    failure: str = ""
    """The last reason why there was no answer."""

    @property
    def answered(self) -> int:
        return self.asked - self.failed

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            self.asked + other.asked,
            self.agreed + other.agreed,
            self.failed + other.failed,
            self.skipped + other.skipped,
            self.texts + other.texts,
            self.alike + other.alike,
            {
                name: self.fields_agreed.get(name, 0) + other.fields_agreed.get(name, 0)
                for name in {**self.fields_agreed, **other.fields_agreed}
            },
            self.champion_ms + other.champion_ms,
            self.challenger_ms + other.challenger_ms,
            other.failure or self.failure,
        )


def compare(said: Any, also: Any, *, free_text: bool, champion_ms: float, challenger_ms: float) -> Comparison:
    """One job that both answered: ``said`` is the champion's value, ``also`` the challenger's."""
    return Comparison(
        asked=1,
        agreed=int(_same(said, also)),
        texts=int(free_text),
        alike=likeness(str(said), str(also)) if free_text else 0.0,
        fields_agreed=_fields(said, also),
        champion_ms=champion_ms,
        challenger_ms=challenger_ms,
    )


def likeness(one: str, other: str) -> float:
    """How much of two texts' first words is the same in the same order, 0 to 1."""
    return SequenceMatcher(None, one.split()[:WORDS], other.split()[:WORDS], autojunk=False).ratio()


def _fields(said: Any, also: Any) -> dict[str, int]:
    if not (isinstance(said, dict) and isinstance(also, dict)):
        return {}
    both = [name for name in said if name in also and _same(said[name], also[name])]
    # A field that only the challenger has is one on which they differ, and is listed as such.
    return {**dict.fromkeys([*said, *also], 0), **dict.fromkeys(both, 1)}


def _same(said: Any, also: Any) -> bool:
    """As JSON, where true is not 1."""
    return json.dumps(said, sort_keys=True) == json.dumps(also, sort_keys=True)
