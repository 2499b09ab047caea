"""A text as the router reads it, whoever answers it: what is only a matter of typing is evened out."""

from __future__ import annotations

import re

__all__ = ["tidy"]

_SPACES = re.compile(r"[^\S\n]+")
_ENDS = re.compile(r" ?\n ?")
_GAPS = re.compile(r"\n{3,}")
_FEWEST = 2
"""Words in capitals that are shouted; one alone may be a name or a code."""


def tidy(text: str) -> str:
    """Without spaces at the ends and of every run of spaces one; in small letters, if all are capitals.

    Most texts are tidy already, and the router reads of them the very states that an expert goes on from.
    """
    evened = _GAPS.sub("\n\n", _ENDS.sub("\n", _SPACES.sub(" ", text))).strip()
    return evened.lower() if evened.isupper() and len(evened.split()) >= _FEWEST else evened
