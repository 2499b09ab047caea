"""JSON Schema to a Lark grammar of llguidance, for exactly the JSON that ``json.dumps`` writes compactly.

Object keys come in the schema's order; required ones always, others may be left out. A string marked
``x-verbatim`` is a substring of the job's text: the text is cut into characters, each escaped as JSON
does, so that a value never ends within an escape. ``fleet.schema_subset`` says which schemas are
supported; what it lets through is translated here. Knows nothing of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fleet.engine.number_regex import at_least, at_most, integer_regex, number_regex
from fleet.engine.pattern_regex import pattern_regex
from fleet.schema_subset import VERBATIM
from fleet.schema_values import resolved

__all__ = ["compact", "has_rival_choices", "has_verbatim", "patterns", "schema_grammar"]

CHARACTER = r'([^"\\\x00-\x1f]|\\["\\bfnrt]|\\u00(0[0-7be-f]|1[0-9a-f]))'
"""One character as ``json.dumps(..., ensure_ascii=False)`` writes it within a string."""

INTEGER = r"-?[1-9][0-9]{0,39}|0"


def has_verbatim(schema: Any) -> bool:
    """Whether the grammar depends on the job's text."""
    if isinstance(schema, Mapping):
        return schema.get(VERBATIM) is True or any(has_verbatim(value) for value in schema.values())
    return isinstance(schema, list | tuple) and any(has_verbatim(value) for value in schema)


def has_rival_choices(schema: Any) -> bool:
    """Whether what a string holds can decide what follows it: an ``anyOf`` with records to choose from."""
    if isinstance(schema, Mapping):
        records = [choice for choice in schema.get("anyOf", ()) if not _is_scalar(choice)]
        return len(records) > 1 or any(has_rival_choices(value) for value in schema.values())
    return isinstance(schema, list | tuple) and any(has_rival_choices(value) for value in schema)


def patterns(schema: Any) -> list[str]:
    """Every pattern in a resolved schema, once."""
    own: list[str] = []
    if isinstance(schema, Mapping):
        own += [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        own += [pattern for part in schema for pattern in patterns(part)]
    return list(dict.fromkeys(own))


def _is_scalar(schema: Any) -> bool:
    types = schema.get("type") if isinstance(schema, Mapping) else None
    kinds = {types} if isinstance(types, str) else set(types or ())
    known = bool(kinds) or "enum" in schema or "const" in schema
    return known and not kinds & {"object", "array"}


def schema_grammar(schema: Mapping[str, Any], job_text: str) -> str:
    """Lark text whose ``start`` is the whole answer. Raises ValueError for what is not supported."""
    return _Writer(job_text).write(resolved(schema))


def compact(value: Any) -> str:
    """The one JSON text of a value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _quoted(value: Any) -> str:
    """A literal or JSON within Lark text, whose lexer takes DEL for an error."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


class _Writer:
    def __init__(self, job_text: str) -> None:
        self._job_text = job_text
        self._names: dict[str, str] = {}
        self._lines: list[str] = []

    def write(self, schema: Mapping[str, Any]) -> str:
        start = self._value(schema, "")
        # With forcing, llguidance's masks hold its own choice among the tokens of forced bytes and no other.
        return "\n".join(['%llguidance {"no_forcing": true}', f"start: {start}", *self._lines, ""])

    def _rule(self, body: str) -> str:
        return self._name("r", body)

    def _terminal(self, body: str) -> str:
        return self._name("T", body)

    def _name(self, letter: str, body: str) -> str:
        """A rule or terminal of this body; equal bodies share one, which keeps the lexer small."""
        key = letter + body
        if key not in self._names:
            self._names[key] = f"{letter}{len(self._names)}"
            self._lines.append(f"{self._names[key]}: {body}")
        return self._names[key]

    def _value(self, schema: Mapping[str, Any], where: str) -> str:
        if "const" in schema:
            return self._choice([schema["const"]])
        if "enum" in schema:
            return self._choice(schema["enum"])
        if "anyOf" in schema:
            options = [self._value(option, f"{where}/anyOf/{i}") for i, option in enumerate(schema["anyOf"])]
        else:
            kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
            options = [self._kind(kind, schema, where) for kind in kinds]
        options = list(dict.fromkeys(options))
        return options[0] if len(options) == 1 else self._rule(" | ".join(options))

    def _kind(self, kind: str, schema: Mapping[str, Any], where: str) -> str:
        match kind:
            case "object":
                return self._object(schema, where)
            case "array":
                return self._array(schema, where)
            case "string":
                return self._string(schema)
            case "integer":
                return self._integer(schema, where)
            case "number":
                return self._number(schema)
            case "boolean":
                return self._choice([True, False])
            case _:
                return self._choice([None])

    def _choice(self, values: Any) -> str:
        return self._terminal(" | ".join(_quoted(compact(value)) for value in values))

    def _object(self, schema: Mapping[str, Any], where: str) -> str:
        properties = list(schema.get("properties", {}).items())
        required = set(schema.get("required", ()))
        # Rules for what may follow from property i on: without a comma before it, and with one.
        bare, after = '"}"', '"}"'
        for name, sub in reversed(properties):
            value = self._value(sub, f"{where}/properties/{name}")
            key = _quoted(compact(name) + ":")
            comma_key = _quoted("," + compact(name) + ":")
            first, later = f"{key} {value} {after}", f"{comma_key} {value} {after}"
            if name in required:
                bare, after = self._rule(first), self._rule(later)
            else:
                bare, after = self._rule(f"{first} | {bare}"), self._rule(f"{later} | {after}")
        return self._rule(f'"{{" {bare}')

    def _array(self, schema: Mapping[str, Any], where: str) -> str:
        least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
        if most == 0:
            return '"[]"'
        item = self._value(schema["items"], f"{where}/items")
        bounds = f"{{{max(least - 1, 0)},{'' if most is None else int(most) - 1}}}"
        more = f'("," {item}){bounds}' if most != 1 else ""
        filled = f"{item} {more}".strip()
        return self._rule(f'"[" {filled} "]"' if least > 0 else f'"[" ({filled})? "]"')

    def _string(self, schema: Mapping[str, Any]) -> str:
        if schema.get(VERBATIM) is True:
            return self._terminal(f'"\\"" {self._span()} "\\""')
        bounds = [f'/"{pattern_regex(schema["pattern"])}"/'] if "pattern" in schema else []
        if not bounds or "minLength" in schema or "maxLength" in schema:
            least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
            bounds.append(f'/"{CHARACTER}{{{least},{"" if most is None else int(most)}}}"/')
        return self._terminal(" & ".join(bounds))

    def _span(self) -> str:
        chunks = [compact(character)[1:-1] for character in self._job_text]
        span = self._terminal("%regex " + _quoted({"substring_chunks": chunks}))
        # An empty job has no other substring than the empty one.
        return self._terminal(f"{span} & /(?s:.+)/") if chunks else span

    def _integer(self, schema: Mapping[str, Any], where: str) -> str:
        least, most = schema.get("minimum"), schema.get("maximum")
        if least is None and most is None:
            return self._terminal(f"/{INTEGER}/")
        try:
            return self._terminal(f"/{integer_regex(least, most)}/")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    def _number(self, schema: Mapping[str, Any]) -> str:
        bounds = [at_least(schema["minimum"])] if "minimum" in schema else []
        bounds += [at_most(schema["maximum"])] if "maximum" in schema else []
        return self._terminal(" & ".join(f"/{bound}/" for bound in bounds or [number_regex()]))
