"""``docs/fields.md``: every field that a person may write, made from the models that read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fleet.config import FleetConfig
from fleet.manifest import Manifest, described_schema
from fleet.registry.policy import Policy

HEADING = """# Fields

Made by `python -m fleet.cli.help_pages --write` from the classes that read the files. A field that is not
listed here is refused, with the nearest one that is.
"""
FILES = (("tasks/NAME/task.yaml", Manifest), ("fleet.yaml", FleetConfig), ("registry/policy.yaml", Policy))

Schema = Mapping[str, Any]


def field_pages() -> str:
    """The whole page."""
    parts = [HEADING]
    for file, model in FILES:
        schema = described_schema(model)
        parts.append(f"## {file}\n")
        parts.append("| field | value | default | meaning |\n|---|---|---|---|")
        parts += _rows(schema, schema.get("$defs", {}), "")
        parts.append("")
    return "\n".join(parts)


def _rows(schema: Schema, sections: Mapping[str, Schema], before: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        if "$ref" in field:
            section = sections[field["$ref"].rpartition("/")[2]]
            default = "**required**" if name in required else ""
            yield _row(f"**{before}{name}**", "section", default, field.get("description", ""))
            yield from _rows(section, sections, f"{before}{name}.")
        else:
            default = "**required**" if name in required else _default(field.get("default"))
            yield _row(f"{before}{name}", _value(field), default, field.get("description", ""))


def _row(*cells: str) -> str:
    tidy = (" ".join(cell.split()).replace("``", "`").replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(tidy)} |"


def _default(value: Any) -> str:
    return "" if value is None or value in ("", [], {}) else f"`{json.dumps(value)}`"


def _value(field: Schema) -> str:
    if "enum" in field:
        return " or ".join(f"`{choice}`" for choice in field["enum"])
    if "anyOf" in field:
        return " or ".join(_value(part) for part in field["anyOf"] if part.get("type") != "null")
    if "prefixItems" in field:
        return "list of " + " and ".join(_value(part) for part in field["prefixItems"])
    kind: str = field.get("type", "")
    if kind == "array":
        inner, bounds = field["items"], _bounds(field, "minItems", "maxItems")
        return f"list of {_value(inner).replace(', ', ' of ')}{bounds + ' of them' if bounds else ''}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"mapping to {_value(inner)}" if isinstance(inner, Mapping) and inner else "mapping"
    plain: dict[str, str] = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "`true` or `false`",
    }
    return plain.get(kind, kind) + _bounds(field, "minimum", "maximum") + _length(field)


def _bounds(field: Schema, low: str, high: str) -> str:
    limits = (
        ("at least", field.get(low)),
        ("above", field.get("exclusiveMinimum")),
        ("at most", field.get(high)),
        ("below", field.get("exclusiveMaximum")),
    )
    said = [f"{word} {limit:,}" for word, limit in limits if limit is not None]
    return f", {', '.join(said)}" if said else ""


def _length(field: Schema) -> str:
    return f", at most {field['maxLength']:,} characters" if "maxLength" in field else ""
