"""Regular expressions for the numbers of a range, as Python and ``json.dumps`` write them."""

from __future__ import annotations

import math
from decimal import Decimal

__all__ = ["at_least", "at_most", "integer_regex", "number_regex"]

DIGITS = 40
"""Digits allowed where a range has no bound."""

PLACES = 24
"""Digits allowed behind the point; a double needs 20 at most before it takes an exponent."""

# repr writes exponents below 1e-4 and from 1e16 on; these cannot overflow when parsed.
TINY = r"[1-9](\.[0-9]{1,24})?e-(0[5-9]|[1-9][0-9]|[1-3][0-9]{2})"
HUGE = r"[1-9](\.[0-9]{1,24})?e\+(1[6-9]|[2-9][0-9]|[12][0-9]{2})"
FRACTION = rf"(\.[0-9]{{1,{PLACES}}})?"
ANY = rf"((0|[1-9][0-9]{{0,{DIGITS - 1}}}){FRACTION}|{TINY}|{HUGE})"
"""Any number without its sign."""


def number_regex() -> str:
    """Matches every finite number; a value this large or small never parses to infinity."""
    return f"-?{ANY}"


def at_least(bound: float) -> str:
    """Matches the numbers ``>= bound``."""
    exact = _exact(bound)
    return f"({ANY}|-{_up_to(-exact)})" if exact <= 0 else _from(exact)


def at_most(bound: float) -> str:
    """Matches the numbers ``<= bound``."""
    exact = _exact(bound)
    return f"(-{ANY}|{_up_to(exact)})" if exact >= 0 else f"-{_from(-exact)}"


def _from(bound: Decimal) -> str:
    """Numbers without a sign that are at least ``bound`` > 0; exponents where all of them are."""
    whole, fraction = _split(bound)
    parts = [f"{whole}\\.{_fraction_from(fraction)}" if fraction else f"{whole}{FRACTION}"]
    parts += [f"({'|'.join(_positive(whole + 1, 10**DIGITS - 1))}){FRACTION}"]
    if bound <= Decimal("1e16"):
        parts.append(HUGE)
    return f"({'|'.join(parts)})"


def _up_to(bound: Decimal) -> str:
    """Numbers without a sign that are at most ``bound`` >= 0; exponents where all of them are."""
    whole, fraction = _split(bound)
    parts = [f"{whole}(\\.{_fraction_up_to(fraction)})?"]
    if whole > 0:
        parts.append(f"({'|'.join(_positive(0, whole - 1))}){FRACTION}")
    if bound >= Decimal("1e-4"):
        parts.append(TINY)
    return f"({'|'.join(parts)})"


def _exact(bound: float) -> Decimal:
    """As it is written; a double so large that its last digits are not written, as it is."""
    return Decimal(bound) if abs(bound) >= 2**53 else Decimal(str(bound))


def _split(bound: Decimal) -> tuple[int, str]:
    whole, _, fraction = f"{bound:f}".partition(".")
    return int(whole), fraction.rstrip("0")


def _fraction_from(least: str) -> str:
    """Digits behind the point that make at least ``0.{least}``; ``least`` ends in no zero."""
    if not least:
        return f"[0-9]{{0,{PLACES}}}"
    first = int(least[0])
    more = f"[{first + 1}-9][0-9]{{0,{PLACES}}}|" if first < 9 else ""
    return f"({more}{first}{_fraction_from(least[1:])})"


def _fraction_up_to(most: str) -> str:
    """One digit or more behind the point that make at most ``0.{most}``."""
    if not most:
        return f"0{{1,{PLACES}}}"
    first = int(most[0])
    less = f"[0-{first - 1}][0-9]{{0,{PLACES}}}|" if first > 0 else ""
    return f"({less}{first}({_fraction_up_to(most[1:])})?)"


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
