"""Regular expressions for the integers of a range, written without leading zeros, plus or ``-0``."""

from __future__ import annotations

import math

__all__ = ["integer_regex"]

DIGITS = 40
"""Digits allowed where a range has no bound."""


def integer_regex(least: float | None, most: float | None) -> str:
    """Matches exactly the integers in ``[least, most]``; None is no bound. ValueError if there are none."""
    low = -(10**DIGITS) + 1 if least is None else math.ceil(least)
    high = 10**DIGITS - 1 if most is None else math.floor(most)
    if low > high:
        raise ValueError(f"no integer lies between minimum {least} and maximum {most}")
    parts = []
    if low < 0:
        parts.append("-(" + "|".join(_positive(max(1, -high), -low)) + ")")
    if high >= 0:
        parts += _positive(max(0, low), high)
    return "(" + "|".join(parts) + ")"


def _positive(low: int, high: int) -> list[str]:
    """Alternatives for ``0 <= low <= n <= high``, one per number of digits."""
    parts = []
    for digits in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (digits - 1) if digits > 1 else 0)
        last = min(high, 10**digits - 1)
        parts.append(_same_width(str(first), str(last)))
    return parts


def _same_width(low: str, high: str) -> str:
    """Alternatives for numbers of equally many digits, by their first digit."""
    if not low:
        return ""
    if low == "0" * len(low) and high == "9" * len(high):
        return _digits(len(low))
    if low[0] == high[0]:
        return low[0] + _same_width(low[1:], high[1:])
    rest = len(low) - 1
    parts, first, last = [], int(low[0]), int(high[0])
    if low[1:] != "0" * rest:
        parts.append(low[0] + _same_width(low[1:], "9" * rest))
        first += 1
    if high[1:] != "9" * rest:
        parts.append(high[0] + _same_width("0" * rest, high[1:]))
        last -= 1
    if first <= last:
        parts.append((f"[{first}-{last}]" if first < last else str(first)) + _digits(rest))
    return parts[0] if len(parts) == 1 else "(" + "|".join(parts) + ")"


def _digits(count: int) -> str:
    return "" if count == 0 else f"[0-9]{{{count}}}"
