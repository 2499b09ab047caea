"""A schema's regular expressions, read into the few shapes that a grammar can be made of.

A pattern means what ``re.search`` makes of it: Python's own parser reads it, and each class of characters
is what ``re`` finds among all there are. Two things are narrower, as in JSON Schema's own dialect: a
digit is 0 to 9, and a final ``$`` is the very end. Rows are held against the same reading (``holds``), so
what passes can be answered. What a finite automaton cannot follow is refused by name. Standard library
only; knows nothing of JSON or grammars.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from re import _parser  # type: ignore[attr-defined]  # private, but no second reading of the same syntax
from typing import Any

__all__ = [
    "Branch",
    "Chain",
    "Characters",
    "Node",
    "PatternError",
    "Repeat",
    "holds",
    "length",
    "read_pattern",
]

MAX_CHARACTERS = 5000
"""Characters of a pattern with its repeats written out."""

Ranges = tuple[tuple[int, int], ...]


class PatternError(ValueError):
    """A pattern that no grammar is made for; the message is a noun phrase."""


@dataclass(frozen=True, slots=True)
class Characters:
    """One character whose code point lies in one of these ranges, ends included; rising, not empty."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Chain:
    """All parts, one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """One of the options."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """``part`` so many times; None is without end."""

    part: Node
    least: int
    most: int | None


Node = Characters | Chain | Branch | Repeat

ANYTHING = Repeat(Characters(((0, 0x10FFFF),)), 0, None)
_BEGINNINGS = (_parser.AT_BEGINNING, _parser.AT_BEGINNING_STRING)
_ENDS = (_parser.AT_END, _parser.AT_END_STRING)
_CATEGORIES = {
    _parser.CATEGORY_DIGIT: "0-9", _parser.CATEGORY_NOT_DIGIT: r"\D",
    _parser.CATEGORY_WORD: r"\w", _parser.CATEGORY_NOT_WORD: r"\W",
    _parser.CATEGORY_SPACE: r"\s", _parser.CATEGORY_NOT_SPACE: r"\S",
}  # fmt: skip
_CASE = re.IGNORECASE | re.ASCII
"""Flags that change which characters an item holds, beside DOTALL."""


@lru_cache(maxsize=256)
def read_pattern(pattern: str) -> Node:
    """The whole strings in which ``pattern`` is found. Raises PatternError for what cannot be used."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            parsed = _parser.parse(pattern)
            re.compile(pattern)  # some rules are only checked here
        node = _Reader().chain(parsed.data, re.RegexFlag(parsed.state.flags), left=True, right=True)
        size = _size(node)
    except FutureWarning as error:
        raise PatternError(f"a pattern that other programs read differently ({error}): escape it") from error
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"a pattern that is not a regular expression ({error})") from error
    if size > MAX_CHARACTERS:
        raise PatternError(f"a pattern of more than {MAX_CHARACTERS} characters, repeats written out")
    return node


def holds(pattern: str, text: str) -> bool:
    """Whether ``pattern`` is found in ``text``. Raises PatternError."""
    return _compiled(pattern).fullmatch(text) is not None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(_expression(read_pattern(pattern)))


def _expression(node: Node) -> str:
    match node:
        case Characters(ranges):
            return "[" + "".join(f"{_spelled(a)}-{_spelled(b)}" for a, b in ranges) + "]"
        case Chain(parts):
            return "".join(map(_expression, parts))
        case Branch(options):
            return f"(?:{'|'.join(map(_expression, options))})"
        case Repeat(part, least, most):
            return f"(?:{_expression(part)}){{{least},{'' if most is None else most}}}"


def length(node: Node) -> tuple[int, int | None]:
    """Characters of the shortest and of the longest string; None is without end."""
    match node:
        case Characters():
            return 1, 1
        case Chain(parts):
            each = [length(part) for part in parts]
            return sum(least for least, _ in each), _sum(most for _, most in each)
        case Branch(options):
            each = [length(option) for option in options]
            longest = [most for _, most in each if most is not None]
            return min(least for least, _ in each), max(longest) if len(longest) == len(each) else None
        case Repeat(part, fewest, times):
            least, most = length(part)
            endless = (times is None or most is None) and most != 0 and times != 0
            return least * fewest, None if endless else (most or 0) * (times or 0)


class _Reader:
    """From Python's parse to nodes; ``left`` and ``right`` say whether an edge of the pattern is here."""

    def chain(self, items: Sequence[Any], flags: re.RegexFlag, *, left: bool, right: bool) -> Node:
        items = list(items)
        begins = ends = False
        while left and items and _at(items[0], _BEGINNINGS):
            del items[0]
            begins = True
        while right and items and _at(items[-1], _ENDS):
            del items[-1]
            ends = True
        left, right = left and not begins, right and not ends
        if (begins or ends) and flags & re.MULTILINE:
            raise PatternError("a pattern with the flag m (lines of their own)")
        # An anchor within the first or last group belongs to that edge, so the group must know of it.
        inner_left = left and bool(items) and _anchored(items[0])
        inner_right = right and bool(items) and _anchored(items[-1])
        parts: list[Node] = [] if inner_left or not left else [ANYTHING]
        for place, (kind, value) in enumerate(items):
            at_left, at_right = inner_left and place == 0, inner_right and place == len(items) - 1
            parts.append(self._item(kind, value, flags, left=at_left, right=at_right))
        if right and not inner_right:
            parts.append(ANYTHING)
        return parts[0] if len(parts) == 1 else Chain(tuple(parts))

    def _item(self, kind: Any, value: Any, flags: re.RegexFlag, *, left: bool, right: bool) -> Node:
        p = _parser
        if kind is p.SUBPATTERN:
            _, added, taken, inner = value
            return self.chain(inner, flags & ~taken | added, left=left, right=right)
        if kind is p.BRANCH:
            return Branch(tuple(self.chain(way, flags, left=left, right=right) for way in value[1]))
        if kind in (p.MAX_REPEAT, p.MIN_REPEAT):
            least, most, inner = value
            part = self.chain(inner, flags, left=False, right=False)
            return Repeat(part, int(least), None if most is p.MAXREPEAT else int(most))
        if kind in (p.ATOMIC_GROUP, p.POSSESSIVE_REPEAT):
            raise PatternError("a pattern with atomic groups or possessive repeats")
        if kind is p.AT and value in (*_BEGINNINGS, *_ENDS):
            raise PatternError("a pattern with ^ or $ in its middle")
        if kind in (p.LITERAL, p.NOT_LITERAL, p.IN, p.ANY):
            return Characters(_ranges(*_class(kind, value, flags)))
        raise PatternError("a pattern with look-around, word boundaries or back-references")


def _at(item: Any, where: Sequence[Any]) -> bool:
    return item[0] is _parser.AT and item[1] in where


def _anchored(item: Any) -> bool:
    """Whether an item is a group with ``^`` or ``$`` somewhere in it."""
    kind, value = item
    if kind is _parser.SUBPATTERN:
        return any(_at(each, (*_BEGINNINGS, *_ENDS)) or _anchored(each) for each in value[-1])
    if kind is _parser.BRANCH:
        ways = [each for way in value[1] for each in way]
        return any(_at(each, (*_BEGINNINGS, *_ENDS)) or _anchored(each) for each in ways)
    return False


def _class(kind: Any, value: Any, flags: re.RegexFlag) -> tuple[str, re.RegexFlag]:
    """An item of one character as a pattern of its own."""
    p = _parser
    if kind is p.ANY:
        return ".", flags & re.DOTALL
    if kind is p.LITERAL:
        # Most characters: no need to look through all of them.
        return (_spelled(value), flags & _CASE) if flags & re.IGNORECASE else (_spelled(value), re.NOFLAG)
    parts = [(p.NEGATE, None), (p.LITERAL, value)] if kind is p.NOT_LITERAL else list(value)
    text = ""
    for part, content in parts:
        if part is p.NEGATE:
            text = "^"
        elif content is p.CATEGORY_DIGIT and text.startswith("^"):
            text += r"\d"  # narrower is the class without any digit
        elif part is p.RANGE:
            text += f"{_spelled(content[0])}-{_spelled(content[1])}"
        else:
            text += _CATEGORIES[content] if part is p.CATEGORY else _spelled(content)
    return f"[{text}]", flags & _CASE


def _spelled(code: int) -> str:
    return f"\\U{code:08x}"


@lru_cache(maxsize=256)
def _ranges(item: str, flags: re.RegexFlag) -> Ranges:
    """The characters that a pattern of one character matches."""
    if item.startswith("\\U") and not flags:
        found: Ranges = ((int(item[2:], 16),) * 2,)
        found = () if 0xD800 <= found[0][0] <= 0xDFFF else found
    else:
        runs = re.compile(f"{item}+", flags).finditer(_every())
        found = tuple((ord(run[0][0]), ord(run[0][-1])) for run in runs)
    if not found:
        raise PatternError("a pattern with a class that holds no character")
    return found


@lru_cache(maxsize=1)
def _every() -> str:
    """All characters; halves of surrogate pairs are none."""
    return "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))


def _size(node: Node) -> int:
    match node:
        case Characters():
            return 1
        case Repeat(part, least, most):
            return _size(part) * max(1, least if most is None else most)
        case Chain(parts) | Branch(parts):
            return sum(map(_size, parts))


def _sum(lengths: Any) -> int | None:
    each = list(lengths)
    return None if None in each else sum(each)
