"""Random schemas of the supported subset, values that fit them, and job texts with awkward characters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
from hypothesis import strategies as st

PIECES = [
    'say "hi"', "C:\\temp\\", "\n", "\t", "🎉",
    "Zoë", "é", "سلام", "שלום", "订单", "배송", "\u200d", "👩‍👩‍👧",
    " ", "  ", "a", "The", "12", "-3", ".5", "{", "}", "[]", '":"', '","', '"},{"', "\\n", '\\"', "/",
    "<eos>",
    "null", "true", "\x00", "\x1f", "\x7f", "<0x41>", "name", "e-5", "'", "\u2028",
]  # fmt: skip

texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=8).map("".join)
# The tokenizers spell U+2581 as a space: it cannot be written as such.
texts = texts.map(lambda text: text.replace("▁", "_"))
names = st.one_of(
    st.sampled_from(["name", "items", "na", "n", 'q"t', "größe", "订单", "a b", "x\\y", "total", "date"]),
    texts,
)
scalars = st.one_of(
    texts, st.integers(-999, 999), st.booleans(), st.none(), st.sampled_from([1.5, -0.25, 1e-7])
)
PATTERNS = {
    r"^\d{4}-\d{2}-\d{2}$": ["2024-05-12", "1999-12-31"],
    r"^[A-Z]{2,3}$": ["NO", "USD"],
    r"^(yes|no|maybe)$": ["yes", "maybe"],
    r"^\+?[0-9 ]+$": ["+47 22", "1"],
    r"b+c": ["abbc", "bc", 'x"bc\\'],
    r"^[\w ]+ - [^\W\d]+$": ["Zoë 2 - é", "a - b"],
    r'^[^"a-z\\]{1,3}$': ["A:", "\n", "🎉"],
    r"[\w.-]+@[\w-]+\.\w+": ["a@b.no", "to anna.berg@post.example!"],
    r"^(cat|dog)s?$|^\s|!$": ["cats", " x", "stop!"],
    r"(?i)^ok(ay)?\Z": ["OK", "okAy"],
    r"[\x00-\x1f]": ["a\tb", "\x1f"],
}


@st.composite
def strings(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    match draw(st.sampled_from(["free", "bounded", "pattern", "verbatim", "verbatim"])):
        case "bounded":
            least = draw(st.integers(0, 3))
            schema |= {"minLength": least, "maxLength": least + draw(st.integers(0, 6))}
        case "pattern":
            schema |= {"pattern": draw(st.sampled_from(sorted(PATTERNS)))}
            schema |= draw(st.sampled_from([{}, {}, {"maxLength": 60}]))
        case "verbatim":
            schema |= {"x-verbatim": True}
    return schema


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": draw(st.sampled_from(["integer", "integer", "number"]))}
    if draw(st.booleans()):
        schema["minimum"] = draw(st.integers(-1200, 1200))
    if draw(st.booleans()):
        schema["maximum"] = schema.get("minimum", 0) + draw(st.integers(0, 1500))
    return schema


bounds = st.one_of(
    st.integers(-(10**18), 10**18),
    st.floats(-1e30, 1e30).filter(lambda x: x == 0 or abs(x) >= 1e-15),
    st.sampled_from([0, 0.5, -0.25, 1e-7, -1e-15, 9.99, 1e16, -1e17, 1e30, 10**30, 0.1 + 0.2]),
)


@st.composite
def ranges(draw: st.DrawFn) -> dict[str, Any]:
    """Numbers between bounds of every magnitude; what lies between them may need more digits than JSON's."""
    low, high = sorted([draw(bounds), draw(bounds)])
    schema = {"type": draw(st.sampled_from(["integer", "number"])), "minimum": low, "maximum": high}
    for key in draw(st.sampled_from([[], [], ["minimum"], ["maximum"]])):
        del schema[key]
    return schema


@st.composite
def several(draw: st.DrawFn) -> dict[str, Any]:
    """A scalar of several types, each with its own limits."""
    one, other = draw(strings()), draw(numbers())
    also = draw(st.lists(st.sampled_from(["boolean", "null"]), max_size=2, unique=True))
    return {**one, **other, "type": [one["type"], other["type"], *also]}


ANNOTATIONS = st.fixed_dictionaries(
    {},
    optional={
        "title": st.just("x-verbatim"),
        "description": texts,
        "default": st.sampled_from([None, {"pattern": "("}, "x"]),
        "examples": st.just([{"x-verbatim": True}]),
        "$comment": st.just("#"),
        "deprecated": st.booleans(),
    },
)

leaves = st.one_of(
    strings(),
    numbers(),
    several(),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}]),
    st.lists(scalars, min_size=1, max_size=4, unique_by=lambda v: json.dumps(v)).map(lambda v: {"enum": v}),
    scalars.map(lambda value: {"const": value}),
    st.just({"type": "string", "enum": ["a", "ab", "b"], "title": "sizes"}),
)


def _grow(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def records(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(names, inner, min_size=1, max_size=4))
        required = [name for name in properties if draw(st.integers(0, 3))]
        notes = draw(ANNOTATIONS) if draw(st.integers(0, 3)) == 0 else {}
        closed = draw(st.sampled_from([{}, {"additionalProperties": False}]))
        return {"type": "object", "properties": properties, "required": required, **closed, **notes}

    @st.composite
    def arrays(draw: st.DrawFn) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array", "items": draw(inner)}
        if draw(st.booleans()):
            schema["minItems"] = draw(st.integers(0, 2))
        if draw(st.booleans()):
            schema["maxItems"] = schema.get("minItems", 0) + draw(st.integers(0, 2))
        return schema

    def nullable(schema: dict[str, Any]) -> dict[str, Any]:
        return {"anyOf": [schema, {"type": "null"}]}

    choices = st.lists(inner, min_size=2, max_size=3).map(lambda some: {"anyOf": some})
    return st.one_of(records(), records(), arrays(), inner.map(nullable), choices)


schemas = st.recursive(leaves, _grow, max_leaves=7)
wide_schemas = st.recursive(leaves | ranges(), _grow, max_leaves=7)
"""With bounds at which not every number can be written as ``json.dumps`` would."""


@st.composite
def documents(draw: st.DrawFn, parts: st.SearchStrategy[dict[str, Any]] = wide_schemas) -> dict[str, Any]:
    """A whole schema, often with definitions that refer to one another."""
    defined = draw(st.lists(st.sampled_from(["item", "a/b", "m~n", "größe"]), max_size=2, unique=True))
    if not defined:
        return draw(parts)
    refs = [{"$ref": "#/$defs/" + name.replace("~", "~0").replace("/", "~1")} for name in defined]
    defs = {name: draw(parts) for name in defined}
    if len(defined) == 2:
        defs[defined[1]] = {"anyOf": [refs[0], defs[defined[1]]]}
    properties = {
        "one": refs[-1],
        "many": {"type": "array", "items": refs[0], "maxItems": 2},
        "own": draw(parts),
    }
    required = [name for name in properties if draw(st.booleans())]
    return {"type": "object", "properties": properties, "required": required, "$defs": defs}


def checker(schema: dict[str, Any], job: str) -> jsonschema.Draft202012Validator:
    """JSON Schema's own word on an answer, with our two rules: objects are closed, and x-verbatim copies."""

    def copied(
        validator: Any, marked: Any, instance: Any, schema: Any
    ) -> Iterator[jsonschema.ValidationError]:
        if marked is True and isinstance(instance, str) and (instance not in job or (job and not instance)):
            yield jsonschema.ValidationError(f"{instance!r} is not copied from the job")

    rules = {"x-verbatim": copied}
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, rules)(_closed(schema))


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    out = dict(schema)
    for key in ("properties", "$defs"):
        if key in out:
            out[key] = {name: _closed(child) for name, child in out[key].items()}
    if "anyOf" in out:
        out["anyOf"] = [_closed(child) for child in out["anyOf"]]
    if "items" in out:
        out["items"] = _closed(out["items"])
    return {**out, "additionalProperties": False} if "properties" in out else out


def values(schema: dict[str, Any], job: str) -> st.SearchStrategy[Any]:
    """Values that ``json.dumps`` writes as the grammar wants them, keys in the schema's order.

    ``schema`` is resolved, and without ``ranges``.
    """
    if "anyOf" in schema:
        return st.one_of([values(choice, job) for choice in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return st.one_of([_of_kind(kind, schema, job) for kind in kinds])


def _of_kind(kind: str, schema: dict[str, Any], job: str) -> st.SearchStrategy[Any]:
    match kind:
        case "object":
            return _records(schema, job)
        case "array":
            least = schema.get("minItems", 0)
            most = schema.get("maxItems", least + 3)
            return st.lists(values(schema["items"], job), min_size=least, max_size=most)
        case "string":
            return _strings(schema, job)
        case "integer":
            low, high = schema.get("minimum"), schema.get("maximum")
            return st.integers(low if low is not None or high is None else high - 99, high)
        case "number":
            return _numbers(schema)
        case "boolean":
            return st.booleans()
    return st.none()


@st.composite
def _records(draw: st.DrawFn, schema: dict[str, Any], job: str) -> dict[str, Any]:
    return {
        name: draw(values(sub, job))
        for name, sub in schema["properties"].items()
        if name in schema["required"] or draw(st.booleans())
    }


def _strings(schema: dict[str, Any], job: str) -> st.SearchStrategy[str]:
    if schema.get("x-verbatim"):
        if not job:
            return st.just("")
        starts = st.integers(0, len(job) - 1)
        return st.tuples(starts, st.integers(1, 12)).map(lambda cut: job[cut[0] : cut[0] + cut[1]])
    if "pattern" in schema:
        return st.sampled_from(PATTERNS[schema["pattern"]])
    if "maxLength" in schema:
        least, most = schema["minLength"], schema["maxLength"]
        return texts.map(lambda text: (text + "x" * least)[: max(least, min(len(text), most))])
    return texts


def _numbers(schema: dict[str, Any]) -> st.SearchStrategy[float | int]:
    if "minimum" not in schema and "maximum" not in schema:
        whole = st.integers(-(10**20), 10**20)
        return st.one_of(whole, st.floats(-1e6, 1e6), st.sampled_from([1e-300, -2.5e-9, 1e16, 0.0]))
    low = schema.get("minimum", schema.get("maximum", 0) - 50)
    high = schema.get("maximum", low + 50)
    return st.one_of(st.integers(low, high), st.integers(low * 4, high * 4).map(lambda n: n / 4))
