"""A supported schema and a value side by side: references followed, what is copied, in which order.

For schemas in which ``fleet.schema_subset`` finds nothing unsupported. Standard library only; whether a
value is right is not judged here. Knows nothing of files, rows, tokens or grammars.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fleet.json_pointer import escape
from fleet.schema_subset import (
    ANNOTATIONS,
    VERBATIM,
    definition_name,
    is_of_type,
    types_of,
    unsupported_features,
)

__all__ = ["property_order", "resolved", "verbatim_values"]


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


def _resolve(node: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        return _resolve(defs[definition_name(node["$ref"])], defs)
    if "anyOf" in node:
        return {"anyOf": [_resolve(choice, defs) for choice in node["anyOf"]]}
    out = {key: value for key, value in node.items() if key not in ANNOTATIONS}
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
                yield from _verbatim(child, value[name], f"{at}/{escape(name)}")


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
    if not any(is_of_type(value, name) for name in types_of(node)):
        return False
    if isinstance(value, dict) and "properties" in node:
        properties = node["properties"]
        return all(name in value for name in node.get("required", [])) and all(
            name in properties and _fits(properties[name], item) for name, item in value.items()
        )
    if isinstance(value, list) and "items" in node:
        return all(_fits(node["items"], item) for item in value)
    return True
