"""Whether every answer under one JSON Schema is valid under another one, whoever wrote that.

``given`` is a task's schema, in which ``fleet.schema_subset`` finds nothing unsupported; ``wanted`` comes
from outside and may be anything. What cannot be shown to hold counts as not holding: no agreement is
claimed that an answer could break. The order of keys, annotations and ``x-`` keywords make no difference.
Standard library only; knows nothing of tasks, answers or where a schema came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fleet.json_pointer import escape, pointer_steps
from fleet.schema_subset import ANNOTATIONS, VERBATIM, is_of_type, types_of
from fleet.schema_values import resolved

__all__ = ["disagreement"]

MAX_STEPS = 20_000
"""Pairs of parts, values or names that are compared before it is given up: a few hundredths of a second."""

_SILENT = ANNOTATIONS | {"definitions", "$id", "$anchor", "readOnly", "writeOnly"}
_OF_TYPE: Mapping[str, frozenset[str]] = {
    "string": frozenset(
        {"minLength", "maxLength", "pattern", "format", "contentEncoding", "contentMediaType"}
    ),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "array": frozenset({"items", "minItems", "maxItems", "uniqueItems", "prefixItems", "contains"}),
    "object": frozenset(
        {"properties", "required", "additionalProperties", "minProperties", "maxProperties"}
        | {"patternProperties", "propertyNames", "dependentRequired", "unevaluatedProperties"}
    ),
}
"""Keywords that say something about values of one type only."""
_ELSEWHERE = frozenset().union(*_OF_TYPE.values())

Node = Mapping[str, Any]


def disagreement(wanted: Any, given: Mapping[str, Any]) -> str | None:
    """Where an answer under ``given`` may not be valid under ``wanted``, and why; None if it always is."""
    own = resolved(given)
    try:
        return _Comparison(wanted).gap(wanted, own, "", frozenset())
    except (_TooMuch, RecursionError):
        return "it is too large to be compared"
    except (AttributeError, LookupError, TypeError, ValueError):  # whoever wrote it may have written anything
        return "it is not a JSON Schema that can be followed"


class _TooMuch(Exception):
    pass


class _Comparison:
    """One ``wanted`` schema, walked side by side with parts of the given one."""

    def __init__(self, wanted: Any) -> None:
        self._root = wanted
        self._steps = 0

    def gap(self, wanted: Any, given: Node, at: str, trail: frozenset[str]) -> str | None:
        """``at`` is where in an answer; ``trail`` the references followed since it last moved on."""
        return next(filter(None, (self._atom(wanted, atom, at, trail) for atom in _atoms(given))), None)

    def _atom(self, wanted: Any, given: Node, at: str, trail: frozenset[str]) -> str | None:
        self._count(1)
        if wanted is True:
            return None
        if not isinstance(wanted, Mapping):
            return f"{at or '/'}: nothing is allowed there"
        kind = "number" if given["type"] == "integer" else given["type"]
        for key in wanted:
            if (
                key in _SILENT
                or key.startswith("x-")
                or (key in _ELSEWHERE and key not in _OF_TYPE.get(kind, ()))
            ):
                continue
            rule = _RULES.get(key)
            if rule is None:
                return f"{at or '/'}: {key} is not known to hold"
            found = rule(self, wanted, given, at, trail)
            if found is not None:
                return found
        return None

    def _count(self, pairs: int) -> None:
        self._steps += pairs
        if self._steps > MAX_STEPS:
            raise _TooMuch

    # ---- keywords for values of all types

    def _type(self, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        names, own = types_of(wanted), given["type"]
        if own in names or (own == "integer" and "number" in names):
            return None
        return f"{at or '/'}: it is of type {own}, not {' or '.join(names) or 'of none'}"

    def _enum(self, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        return self._among(wanted["enum"], given, at)

    def _const(self, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        return self._among([wanted["const"]], given, at)

    def _among(self, choices: Any, given: Node, at: str) -> str | None:
        if "const" not in given:
            return f"{at or '/'}: it is any {given['type']}, not one of a few values"
        if isinstance(choices, list):
            self._count(len(choices))
            if any(_same(choice, given["const"]) for choice in choices):
                return None
        return f"{at or '/'}: it can be {given['const']!r:.80}, which is not among the values allowed"

    def _ref(self, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        ref = wanted["$ref"]
        if not isinstance(ref, str) or not ref.startswith("#") or ref in trail:
            return f"{at or '/'}: $ref {ref!r:.80} cannot be followed"
        node = self._root
        try:
            for step in pointer_steps(node, ref[1:]):
                node = node[step]
        except (LookupError, TypeError, ValueError):
            return f"{at or '/'}: $ref {ref!r:.80} names nothing"
        return self._atom(node, given, at, trail | {ref})

    def _any_of(self, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        choices = wanted["anyOf"]
        found = (
            [self._atom(choice, given, at, trail) for choice in choices] if isinstance(choices, list) else []
        )
        if None in found:
            return None
        return (
            found[0]
            if len(found) == 1
            else f"{at or '/'}: no alternative of anyOf allows every {given['type']}"
        )

    def _all_of(self, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        parts = wanted["allOf"]
        if not isinstance(parts, list):
            return f"{at or '/'}: allOf is no list"
        return next(filter(None, (self._atom(part, given, at, trail) for part in parts)), None)

    # ---- keywords for values of one type

    def _pattern(self, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        if wanted["pattern"] == given.get("pattern", object()):
            return None
        return f"{at or '/'}: nothing makes it match the pattern {wanted['pattern']!r:.80}"

    def _multiple(self, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        if wanted["multipleOf"] == 1 and given["type"] == "integer":
            return None
        return f"{at or '/'}: nothing makes it a multiple of {wanted['multipleOf']!r:.80}"

    def _items(self, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        if given.get("maxItems") == 0:
            return None
        return self.gap(wanted["items"], given["items"], f"{at}/items", frozenset())

    def _unique(self, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        if wanted["uniqueItems"] is False or given.get("maxItems", 2) <= 1:
            return None
        return f"{at or '/'}: its items may be the same"

    def _properties(self, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        """``properties`` and ``additionalProperties`` together, whichever of them is written."""
        known, others = wanted.get("properties", {}), wanted.get("additionalProperties", True)
        if not isinstance(known, Mapping):
            return f"{at or '/'}: properties is no object"
        for name, child in given["properties"].items():
            if name not in known and others is False:
                return f"{at}/{escape(name)}: it is answered, and no other properties are allowed"
            found = self.gap(known.get(name, others), child, f"{at}/{escape(name)}", frozenset())
            if found is not None:
                return found
        return None

    def _required(self, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        names = wanted["required"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return f"{at or '/'}: required is no list of names"
        self._count(len(names))
        for name in names:
            if name not in given["properties"]:
                return f"{at}/{escape(name)[:80]}: it is required and never answered"
            if name not in given.get("required", ()):
                return f"{at}/{escape(name)}: it is required and may be left out"
        return None


_Rule = Callable[[_Comparison, Node, Node, str, frozenset[str]], str | None]


def _at_least(key: str, least: Callable[[Node], float | None], strict: bool = False) -> _Rule:
    """``key`` of what is wanted must not be above the least that is given."""

    def rule(_: _Comparison, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        bound, own = wanted[key], least(given)
        if _is_number(bound) and own is not None and (bound < own if strict else bound <= own):
            return None
        return f"{at or '/'}: {key} {bound!r:.80} is not known to hold"

    return rule


def _at_most(key: str, most: Callable[[Node], float | None], strict: bool = False) -> _Rule:
    """``key`` of what is wanted must not be below the most that is given."""

    def rule(_: _Comparison, wanted: Node, given: Node, at: str, trail: frozenset[str]) -> str | None:
        bound, own = wanted[key], most(given)
        if _is_number(bound) and own is not None and (bound > own if strict else bound >= own):
            return None
        return f"{at or '/'}: {key} {bound!r:.80} is not known to hold"

    return rule


def _own(key: str, default: float | None = None) -> Callable[[Node], float | None]:
    return lambda given: given.get(key, default)


_RULES: Mapping[str, _Rule] = {
    "type": _Comparison._type,
    "enum": _Comparison._enum,
    "const": _Comparison._const,
    "$ref": _Comparison._ref,
    "anyOf": _Comparison._any_of,
    "allOf": _Comparison._all_of,
    "pattern": _Comparison._pattern,
    "multipleOf": _Comparison._multiple,
    "items": _Comparison._items,
    "uniqueItems": _Comparison._unique,
    "properties": _Comparison._properties,
    "additionalProperties": _Comparison._properties,
    "required": _Comparison._required,
    # A verbatim string is never empty.
    "minLength": _at_least(
        "minLength", lambda given: given.get("minLength", int(given.get(VERBATIM, False)))
    ),
    "maxLength": _at_most("maxLength", _own("maxLength")),
    "minItems": _at_least("minItems", _own("minItems", 0)),
    "maxItems": _at_most("maxItems", _own("maxItems")),
    "minimum": _at_least("minimum", _own("minimum")),
    "maximum": _at_most("maximum", _own("maximum")),
    "exclusiveMinimum": _at_least("exclusiveMinimum", _own("minimum"), strict=True),
    "exclusiveMaximum": _at_most("exclusiveMaximum", _own("maximum"), strict=True),
    "minProperties": _at_least("minProperties", lambda given: len(given.get("required", ()))),
    "maxProperties": _at_most("maxProperties", lambda given: len(given["properties"])),
}


def _atoms(given: Node) -> Iterator[Node]:
    """The given node as alternatives of one type each; single values carry themselves as ``const``."""
    if "anyOf" in given:
        for choice in given["anyOf"]:
            yield from _atoms(choice)
    elif "enum" in given or "const" in given:
        yield from map(_value_atom, given.get("enum", [given.get("const")]))
    else:
        for name in types_of(given):
            if name == "boolean":
                yield from map(_value_atom, (False, True))
            elif name == "null":
                yield _value_atom(None)
            else:
                yield {**given, "type": name}


def _value_atom(value: Any) -> Node:
    types = ("string", "boolean", "null", "integer", "number")
    atom: dict[str, Any] = {"type": next(name for name in types if is_of_type(value, name)), "const": value}
    if isinstance(value, str):
        atom |= {"minLength": len(value), "maxLength": len(value)}
    elif _is_number(value):
        atom |= {"minimum": value, "maximum": value}
    return atom


def _same(one: Any, other: Any) -> bool:
    """As JSON Schema has it: 1 and 1.0 are the same, 1 and true are not."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
