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
from collections.abc import Iterator, Mapping
from typing import Any

from fleet.pattern import PatternError, length, read_pattern

__all__ = [
    "VERBATIM",
    "pointer_steps",
    "property_order",
    "resolved",
    "unsupported_features",
    "verbatim_values",
]

VERBATIM = "x-verbatim"

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$comment", "deprecated", "$schema", "$defs"}
)
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
        _walk(node, f"/$defs/{_escape(str(name))}", defs, found)
    if not found and _size(schema, defs, {}, (), found) > _MAX_NODES:
        found.append(("", f"more than {_MAX_NODES} parts once every $ref is followed"))
    if not found and (least := _least(schema, defs, {})) > _MAX_NODES:
        found.append(("", f"an answer of {least:,} values at least, over {_MAX_NODES:,}"))
    return list(dict.fromkeys(found))


def pointer_steps(document: Any, pointer: str) -> tuple[str | int, ...]:
    """The keys and list indices that a JSON pointer goes through in ``document``."""
    steps: list[str | int] = []
    for name in pointer.split("/")[1:]:
        listed = isinstance(document, list)
        steps.append(int(name) if listed else _unescape(name))
        inside = steps[-1] in (range(len(document)) if listed else document or ())
        document = document[steps[-1]] if inside else None
    return tuple(steps)


def resolved(schema: Mapping[str, Any]) -> dict[str, Any]:
    """``schema`` with every ``$ref`` replaced by what it names and every object closed.

    Annotations are dropped. Raises ValueError naming the first unsupported feature.
    """
    found = unsupported_features(schema)
    if found:
        pointer, feature = found[0]
        raise ValueError(f"the schema uses {feature} at {pointer or '/'}")
    return _resolve(schema, schema.get("$defs", {}))


def verbatim_values(schema: Mapping[str, Any], value: Any) -> Iterator[tuple[str, str]]:
    """(JSON pointer, string) of each string in ``value`` that ``schema`` marks ``x-verbatim``.

    ``schema`` must be supported; parts of ``value`` that do not fit it are passed over.
    """
    yield from _verbatim(resolved(schema), value, "")


def property_order(schema: Mapping[str, Any], value: Any) -> Any:
    """``value`` with the keys of every object in the order that ``schema`` lists them.

    This is the order in which an expert writes them. Unknown keys keep their place at the end.
    """
    return _order(resolved(schema), value)


def _walk(node: Any, at: str, defs: Mapping[str, Any], found: list[Feature]) -> None:
    """Append to ``found`` what is unsupported in ``node``, without following references."""
    if not isinstance(node, Mapping):
        found.append((at, "a schema that is not a mapping"))
        return
    if at.count("/") > 2 * _MAX_DEPTH:
        found.append((at, f"more than {_MAX_DEPTH} levels of nesting"))
        return
    keys = {str(key) for key in node} - _ANNOTATIONS
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
            found.append((f"{at}/{_escape(key)}", f"{key}{beside if shape else ''}"))
        else:
            found.append((f"{at}/{_escape(key)}", f"the keyword {key}"))
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
    types = _types(node)
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
        elif sound and low == "minimum" and low in node and high in node and "integer" in _types(node):
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
    types = _types(node)
    for index, choice in enumerate(choices):
        where = f"{at}/{shape}" + (f"/{index}" if shape == "enum" else "")
        if choice is not None and not isinstance(choice, (str, int, float, bool)):
            found.append((where, f"{shape} of something other than text, numbers, booleans or null"))
        elif isinstance(choice, float) and not math.isfinite(choice):
            found.append((where, f"{shape} of a number that JSON does not have"))
        elif "type" in node and not any(_is(choice, name) for name in types):
            found.append((where, f"{shape} of a value that is not of type {_shown(node['type'])}"))
        elif any(type(other) is type(choice) and other == choice for other in choices[:index]):
            found.append((where, "enum with the same value twice"))


def _check_ref(ref: Any, at: str, defs: Mapping[str, Any], found: list[Feature]) -> None:
    if not isinstance(ref, str) or not ref.startswith(_REF):
        found.append((f"{at}/$ref", f"$ref to anything but {_REF}..."))
    elif _target(ref) not in defs:
        found.append((f"{at}/$ref", f"$ref to {_target(ref)!r}, which $defs does not have"))


def _size(
    node: Mapping[str, Any],
    defs: Mapping[str, Any],
    known: dict[str, int],
    trail: tuple[str, ...],
    found: list[Feature],
) -> int:
    """Number of nodes of ``node`` with references followed; each definition is measured once."""
    if "$ref" in node:
        name = _target(node["$ref"])
        if name in trail:
            found.append((f"/$defs/{_escape(name)}", f"$ref to {name!r} from within itself (recursion)"))
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
        name = _target(node["$ref"])
        if name not in known:
            known[name] = _least(defs[name], defs, known)
        return known[name]
    if "anyOf" in node:
        return min(_least(choice, defs, known) for choice in node["anyOf"])
    least = [1] if set(_types(node)) - {"object", "array"} or "type" not in node else []
    if "properties" in node:
        needed = (node["properties"][name] for name in set(node.get("required", ())))
        least.append(1 + sum(_least(child, defs, known) for child in needed))
    if "items" in node:
        least.append(1 + int(node.get("minItems", 0)) * _least(node["items"], defs, known))
    return min(least)


def _check_parts(node: Mapping[str, Any], at: str, defs: Mapping[str, Any], found: list[Feature]) -> None:
    types = _types(node)
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
        _walk(child, f"{at}/properties/{_escape(str(name))}", defs, found)
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


def _resolve(node: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        return _resolve(defs[_target(node["$ref"])], defs)
    if "anyOf" in node:
        return {"anyOf": [_resolve(choice, defs) for choice in node["anyOf"]]}
    out = {key: value for key, value in node.items() if key not in _ANNOTATIONS}
    if "items" in out:
        out["items"] = _resolve(out["items"], defs)
    if "properties" in out:
        out["properties"] = {key: _resolve(child, defs) for key, child in out["properties"].items()}
        out["additionalProperties"] = False
    return out


def _verbatim(node: Mapping[str, Any], value: Any, at: str) -> Iterator[tuple[str, str]]:
    if "anyOf" in node:
        # The first choice whose kind the value has; a choice without the mark frees the value.
        fitting = [choice for choice in node["anyOf"] if _fits(choice, value)]
        if fitting:
            yield from _verbatim(fitting[0], value, at)
    elif isinstance(value, str):
        if node.get(VERBATIM, False):
            yield at, value
    elif isinstance(value, list) and "items" in node:
        for index, item in enumerate(value):
            yield from _verbatim(node["items"], item, f"{at}/{index}")
    elif isinstance(value, dict):
        for name, child in node.get("properties", {}).items():
            if name in value:
                yield from _verbatim(child, value[name], f"{at}/{_escape(name)}")


def _order(node: Mapping[str, Any], value: Any) -> Any:
    if "anyOf" in node:
        fitting = [choice for choice in node["anyOf"] if _fits(choice, value)]
        return _order(fitting[0], value) if fitting else value
    if isinstance(value, list) and "items" in node:
        return [_order(node["items"], item) for item in value]
    if isinstance(value, dict) and "properties" in node:
        known = {
            name: _order(child, value[name]) for name, child in node["properties"].items() if name in value
        }
        return known | {key: item for key, item in value.items() if key not in known}
    return value


def _fits(node: Mapping[str, Any], value: Any) -> bool:
    """Whether ``value`` has the shape of a resolved ``node``; deep enough to choose among anyOf."""
    if "anyOf" in node:
        return any(_fits(choice, value) for choice in node["anyOf"])
    if "enum" in node or "const" in node:
        choices = node.get("enum", [node.get("const")])
        return any(type(choice) is type(value) and choice == value for choice in choices)
    if not any(_is(value, name) for name in _types(node)):
        return False
    if isinstance(value, dict) and "properties" in node:
        properties = node["properties"]
        return all(name in value for name in node.get("required", [])) and all(
            name in properties and _fits(properties[name], item) for name, item in value.items()
        )
    if isinstance(value, list) and "items" in node:
        return all(_fits(node["items"], item) for item in value)
    return True


def _types(node: Mapping[str, Any]) -> list[str]:
    types = node.get("type")
    if isinstance(types, str):
        return [types]
    return types if isinstance(types, list) and all(isinstance(name, str) for name in types) else []


def _is(value: Any, name: str) -> bool:
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


def _target(ref: str) -> str:
    return _unescape(ref[len(_REF) :])


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _unescape(name: str) -> str:
    return name.replace("~1", "/").replace("~0", "~")
