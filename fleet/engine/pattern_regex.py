"""Regular expressions for the strings of a pattern, as ``json.dumps`` writes them between the quotes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest

from fleet.pattern import Branch, Chain, Characters, Node, Repeat, length, read_pattern

__all__ = ["pattern_regex", "samples"]

SHORT = {ord(char): escaped for char, escaped in zip('"\\\b\f\n\r\t', '"\\bfnrt', strict=True)}
"""Characters that are written as a backslash and a letter."""

PLAIN = "0aA -"
"""Characters that a sample is made of where there is a choice."""

MAX_SAMPLES = 16


def pattern_regex(pattern: str) -> str:
    """Matches exactly the strings in which ``pattern`` is found. Raises PatternError."""
    return _regex(read_pattern(pattern))


def samples(pattern: str) -> list[bytes]:
    """Short strings in which ``pattern`` is found, as JSON without quotes; all branches, if not too many."""
    found = list(dict.fromkeys(_samples(read_pattern(pattern))))[:MAX_SAMPLES]
    return [json.dumps(text, ensure_ascii=False)[1:-1].encode() for text in found]


def _regex(node: Node) -> str:
    match node:
        case Characters():
            return _character(node)
        case Chain(parts):
            return "".join(map(_regex, parts))
        case Branch(options):
            return f"({'|'.join(map(_regex, options))})"
        case Repeat(part, least, most):
            return f"({_regex(part)}){{{least},{'' if most is None else most}}}"


def _character(node: Characters) -> str:
    ways = []
    plain = "".join(_range(least, most) for each in node.ranges for least, most in _plain(*each))
    if plain:
        ways.append(f"[{plain}]")
    held = [code for code in (*range(32), *b'"\\') if any(a <= code <= b for a, b in node.ranges)]
    ways += [f"\\\\{_hex(ord(SHORT[code]))}" for code in held if code in SHORT]
    ways += [f"\\\\u{code:04x}" for code in held if code not in SHORT]
    return ways[0] if len(ways) == 1 else f"({'|'.join(ways)})"


def _plain(least: int, most: int) -> Iterator[tuple[int, int]]:
    """The parts of a range that JSON writes as they are."""
    start = max(least, 0x20)
    for escaped in sorted(b'"\\'):
        if start <= escaped <= most:
            if start < escaped:
                yield start, escaped - 1
            start = escaped + 1
    if start <= most:
        yield start, most


def _range(least: int, most: int) -> str:
    return _hex(least) if least == most else f"{_hex(least)}-{_hex(most)}"


def _hex(code: int) -> str:
    return f"\\u{{{code:x}}}"


def _samples(node: Node) -> list[str]:
    """A shortest string first, then one through each branch that it leaves out."""
    match node:
        case Characters(ranges):
            known = [char for char in PLAIN if any(a <= ord(char) <= b for a, b in ranges)]
            return known[:1] or [chr(next((a for a, _ in ranges if a >= 0x20), ranges[0][0]))]
        case Chain(parts):
            ways = [_samples(part) for part in parts]
            shortest = [way[0] for way in ways]
            others = [
                "".join([*shortest[:place], other, *shortest[place + 1 :]])
                for place, way in enumerate(ways)
                for other in way[1:]
            ]
            return ["".join(shortest), *others][:MAX_SAMPLES]
        case Branch(options):
            ordered = sorted(options, key=lambda option: length(option)[0])
            firsts, *rest = zip_longest(*map(_samples, ordered))
            return [text for column in (firsts, *rest) for text in column if text is not None][:MAX_SAMPLES]
        case Repeat(part, least, most):
            first, *others = _samples(part)
            optional = [first] if least == 0 and most != 0 and not isinstance(part, Characters) else []
            return [first * least, *optional, *(other * max(least, 1) for other in others if most != 0)]
