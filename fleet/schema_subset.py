"""The part of JSON Schema that an extraction may use, told apart without loading anything.

Both sides of the house import this file: the manifest's check, to refuse a schema in time, and the
engine, whose grammar compiler implements exactly this much. Standard library only; knows nothing of
files, rows, tokens or grammars.

=============== ==========================================================================
a value is      one of ``type``, ``enum``, ``const``, ``anyOf``, ``$ref`` (to ``#/$defs/...``)
``type``        string, integer, number, boolean, null, object, array, or a list of them
string          ``minLength``, ``maxLength``, ``pattern`` (what ``fleet.pattern`` reads),
                ``x-verbatim: true``: copied from the job, not empty, no other limits beside it
integer, number ``minimum``, ``maximum``: 0, or of a magnitude from 1e-15 to 1e30
array           ``items`` (one schema), ``minItems``, ``maxItems``
object          ``properties`` (answered in the order written), ``required``;
                always closed: ``additionalProperties`` may only be false
enum, const     strings, finite numbers, booleans and null
anywhere        ``title``, ``description``, ``default``, ``examples``, ``$comment``, ``deprecated``
=============== ==========================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fleet.json_pointer import escape, unescape
from fleet.pattern import PatternError, length, read_pattern

__all__ = ["ANNOTATIONS", "VERBATIM", "definition_name", "is_of_type", "types_of", "unsupported_features"]

VERBATIM = "x-verbatim"

ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$comment", "deprecated", "$schema", "$defs"}
)
"""Keywords that limit no value."""
_OF_TYPE: dict[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", VERBATIM}),
    "integer": frozenset({"minimum", "maximum"}),
    "number": frozenset({"minimum", "maximum"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
_TYPED = frozenset().union(*_OF_TYPE.values())
_SHAPES = ("$ref", "anyOf", "enum", "const", "type")  # the first that is present decides
_REF = "#/$defs/"
_MAX_DEPTH = 16
_MAX_NODES = 2000
_MOST = {"minLength": 1000, "minItems": 1000, "maxLength": 100_000, "maxItems": 100_000}
"""Beyond these a grammar takes seconds, or an answer cannot be brought to its end."""
_LEAST_BOUND, _MOST_BOUND = 1e-15, 1e30
"""Magnitudes of a number's bound that is not 0: for others a grammar would count hundreds of digits."""

Feature = tuple[str, str]


def unsupported_features(schema: Mapping[str, Any]) -> list[Feature]:
    """Everything in ``schema`` that no grammar is made for, as (JSON pointer, what it is).

    Empty when the schema can be used. A schema that contradicts itself (``minItems`` above
    ``maxItems``, a required property that does not exist) is reported in the same way.
    """
    found: list[Feature] = []
    defs = schema.get("$defs", {}) if isinstance(schema, Mapping) else {}
    if not isinstance(defs, Mapping):
        return [("/$defs", "$defs that is not a mapping of names to schemas")]
    _walk(schema, "", defs, found)
    for name, node in defs.items():
        _walk(node, f"/$defs/{escape(str(name))}", defs, found)
    if not found and _size(schema, defs, {}, (), found) > _MAX_NODES:
        found.append(("", f"more than {_MAX_NODES} parts once every $ref is followed"))
    if not found and (least := _least(schema, defs, {})) > _MAX_NODES:
        found.append(("", f"an answer of {least:,} values at least, over {_MAX_NODES:,}"))
    return list(dict.fromkeys(found))


def _walk(node: Any, at: str, defs: Mapping[str, Any], found: list[Feature]) -> None:
    """Append to ``found`` what is unsupported in ``node``, without following references."""
    if not isinstance(node, Mapping):
        found.append((at, "a schema that is not a mapping"))
        return
    if at.count("/") > 2 * _MAX_DEPTH:
        found.append((at, f"more than {_MAX_DEPTH} levels of nesting"))
        return
    keys = {str(key) for key in node} - ANNOTATIONS
    if "$defs" in node and at:
        found.append((f"{at}/$defs", "$defs that are not at the top"))
    shape = next((key for key in _SHAPES if key in keys), None)
    if shape is None:
        found.append((at, "a value of any type (give a type, enum, const, anyOf or $ref)"))
    allowed = {shape} if shape else set()
    if shape == "type":
        allowed |= _check_types(node, at, found)
    elif shape in ("enum", "const"):
        allowed |= {"type"}
        _check_choices(node, at, shape, found)
    for key in sorted(keys - allowed):
        if key in _TYPED or key in _SHAPES:
            beside = f" beside {shape}" if shape != "type" else f" on type {_shown(node['type'])}"
            found.append((f"{at}/{escape(key)}", f"{key}{beside if shape else ''}"))
        else:
            found.append((f"{at}/{escape(key)}", f"the keyword {key}"))
    if shape == "$ref":
        _check_ref(node["$ref"], at, defs, found)
    elif shape == "anyOf":
        choices = node["anyOf"]
        if not isinstance(choices, list) or not choices:
            found.append((f"{at}/anyOf", "anyOf that is not a list of schemas"))
            return
        for index, choice in enumerate(choices):
            _walk(choice, f"{at}/anyOf/{index}", defs, found)
    elif shape == "type":
        _check_parts(node, at, defs, found)


def _check_types(node: Mapping[str, Any], at: str, found: list[Feature]) -> set[str]:
    """Check ``type`` and the plain limits of strings and numbers; the keywords that may stand here."""
    types = types_of(node)
    if not types or len(set(types)) != len(types):
        found.append((f"{at}/type", "a type that is neither a name nor a list of different names"))
        return set(_TYPED)
    allowed: set[str] = set()
    for name in types:
        if name not in _OF_TYPE:
            found.append((f"{at}/type", f"the type {name}"))
            return set(_TYPED)
        allowed |= _OF_TYPE[name]
    _check_bounds(node, at, found)
    if "pattern" in node:
        _check_pattern(node, f"{at}/pattern", found)
    verbatim = node.get(VERBATIM, False)
    if not isinstance(verbatim, bool):
        found.append((f"{at}/{VERBATIM}", f"{VERBATIM} that is neither true nor false"))
    elif verbatim:
        for key in sorted({"minLength", "maxLength", "pattern"} & set(node)):
            found.append((f"{at}/{key}", f"{key} beside {VERBATIM}"))
    return allowed


def _check_bounds(node: Mapping[str, Any], at: str, found: list[Feature]) -> None:
    for low, high in (("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum")):
        sound = True
        for key in (low, high):
            value = node.get(key, 0)
            numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not numeric or value != value or abs(value) == float("inf"):
                found.append((f"{at}/{key}", f"{key} that is not a number"))
                sound = False
            elif low == "minimum":
                if value and not _LEAST_BOUND <= abs(value) <= _MOST_BOUND:
                    found.append((f"{at}/{key}", f"{key} of a magnitude below 1e-15 or above 1e30"))
                    sound = False
            elif value < 0 or value != int(value):
                found.append((f"{at}/{key}", f"{key} that is not a whole number from 0 up"))
                sound = False
            elif value > _MOST[key]:
                found.append((f"{at}/{key}", f"{key} above {_MOST[key]:,}"))
        if sound and low in node and high in node and node[low] > node[high]:
            found.append((f"{at}/{low}", f"{low} above {high}"))
        elif sound and low == "minimum" and low in node and high in node and "integer" in types_of(node):
            whole = math.floor(node[high]) - math.ceil(node[low])
            if whole < 0:
                found.append((f"{at}/{low}", f"{low} and {high} with no whole number between them"))


def _check_pattern(node: Mapping[str, Any], at: str, found: list[Feature]) -> None:
    if not isinstance(node["pattern"], str):
        found.append((at, "a pattern that is not a string"))
        return
    try:
        shortest, longest = length(read_pattern(node["pattern"]))
    except PatternError as error:
        found.append((at, str(error)))
        return
    # Limits that are no numbers are reported as such, and a verbatim string may have none beside it.
    least, most = (node.get(key) for key in ("minLength", "maxLength"))
    if isinstance(most, (int, float)) and shortest > most:
        found.append((at, f"a pattern that needs {shortest} characters beside maxLength {most}"))
    if isinstance(least, (int, float)) and longest is not None and longest < least:
        found.append((at, f"a pattern of at most {longest} characters beside minLength {least}"))


def _check_choices(node: Mapping[str, Any], at: str, shape: str, found: list[Feature]) -> None:
    choices = node["enum"] if shape == "enum" else [node["const"]]
    if not isinstance(choices, list) or not choices:
        found.append((f"{at}/enum", "enum that is not a list of values"))
        return
    types = types_of(node)
    for index, choice in enumerate(choices):
        where = f"{at}/{shape}" + (f"/{index}" if shape == "enum" else "")
        if choice is not None and not isinstance(choice, (str, int, float, bool)):
            found.append((where, f"{shape} of something other than text, numbers, booleans or null"))
        elif isinstance(choice, float) and not math.isfinite(choice):
            found.append((where, f"{shape} of a number that JSON does not have"))
        elif "type" in node and not any(is_of_type(choice, name) for name in types):
            found.append((where, f"{shape} of a value that is not of type {_shown(node['type'])}"))
        elif any(type(other) is type(choice) and other == choice for other in choices[:index]):
            found.append((where, "enum with the same value twice"))


def _check_ref(ref: Any, at: str, defs: Mapping[str, Any], found: list[Feature]) -> None:
    if not isinstance(ref, str) or not ref.startswith(_REF):
        found.append((f"{at}/$ref", f"$ref to anything but {_REF}..."))
    elif definition_name(ref) not in defs:
        found.append((f"{at}/$ref", f"$ref to {definition_name(ref)!r}, which $defs does not have"))


def _size(
    node: Mapping[str, Any],
    defs: Mapping[str, Any],
    known: dict[str, int],
    trail: tuple[str, ...],
    found: list[Feature],
) -> int:
    """Number of nodes of ``node`` with references followed; each definition is measured once."""
    if "$ref" in node:
        name = definition_name(node["$ref"])
        if name in trail:
            found.append((f"/$defs/{escape(name)}", f"$ref to {name!r} from within itself (recursion)"))
            return 1
        if name not in known:
            known[name] = _size(defs[name], defs, known, (*trail, name), found)
        return known[name]
    children = [*node.get("anyOf", []), *node.get("properties", {}).values()]
    children += [node["items"]] if "items" in node else []
    return 1 + sum(_size(child, defs, known, trail, found) for child in children)


def _least(node: Mapping[str, Any], defs: Mapping[str, Any], known: dict[str, int]) -> int:
    """Number of values in the smallest answer; each definition is measured once."""
    if "$ref" in node:
        name = definition_name(node["$ref"])
        if name not in known:
            known[name] = _least(defs[name], defs, known)
        return known[name]
    if "anyOf" in node:
        return min(_least(choice, defs, known) for choice in node["anyOf"])
    least = [1] if set(types_of(node)) - {"object", "array"} or "type" not in node else []
    if "properties" in node:
        needed = (node["properties"][name] for name in set(node.get("required", ())))
        least.append(1 + sum(_least(child, defs, known) for child in needed))
    if "items" in node:
        least.append(1 + int(node.get("minItems", 0)) * _least(node["items"], defs, known))
    return min(least)


def _check_parts(node: Mapping[str, Any], at: str, defs: Mapping[str, Any], found: list[Feature]) -> None:
    types = types_of(node)
    if "array" in types:
        if "items" in node:
            _walk(node["items"], f"{at}/items", defs, found)
        else:
            found.append((at, "an array without items"))
    if "object" not in types:
        return
    properties = node.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        found.append((f"{at}/properties", "an object without properties"))
        return
    for name, child in properties.items():
        _walk(child, f"{at}/properties/{escape(str(name))}", defs, found)
        if not isinstance(name, str):
            found.append((f"{at}/properties", f"a property whose name is not text ({name!r})"))
    required = node.get("required", [])
    if not isinstance(required, list):
        found.append((f"{at}/required", "required that is not a list of names"))
    else:
        for name in required:
            if not isinstance(name, str) or name not in properties:
                found.append((f"{at}/required", f"required of {name!r}, which is not a property"))
    if node.get("additionalProperties", False) is not False:
        found.append((f"{at}/additionalProperties", "additionalProperties other than false"))


def types_of(node: Mapping[str, Any]) -> list[str]:
    """What ``type`` of a schema lists; empty where it is absent or malformed."""
    types = node.get("type")
    if isinstance(types, str):
        return [types]
    return types if isinstance(types, list) and all(isinstance(name, str) for name in types) else []


def is_of_type(value: Any, name: str) -> bool:
    """Whether ``value`` is of JSON Schema's type ``name``; true is no number, 2.0 is an integer."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "null": value is None,
        "array": isinstance(value, list),
        "object": isinstance(value, dict),
        "number": number,
        "integer": number and (isinstance(value, int) or value.is_integer()),
    }.get(name, False)


def _shown(types: Any) -> str:
    return types if isinstance(types, str) else " or ".join(map(str, types))


def definition_name(ref: str) -> str:
    """The name in ``$defs`` that a supported ``$ref`` points at."""
    return unescape(ref[len(_REF) :])
