"""Random schemas of the supported subset, values that fit them, and job texts with awkward characters."""

from __future__ import annotations

import json
from typing import Any

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


leaves = st.one_of(
    strings(),
    numbers(),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}]),
    st.lists(scalars, min_size=1, max_size=4, unique_by=lambda v: json.dumps(v)).map(lambda v: {"enum": v}),
    scalars.map(lambda value: {"const": value}),
)


def _grow(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def records(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(names, inner, min_size=1, max_size=4))
        required = [name for name in properties if draw(st.integers(0, 3))]
        return {"type": "object", "properties": properties, "required": required}

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


def values(schema: dict[str, Any], job: str) -> st.SearchStrategy[Any]:
    """Values that ``json.dumps`` writes as the grammar wants them, keys in the schema's order."""
    if "anyOf" in schema:
        return st.one_of([values(choice, job) for choice in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    match schema["type"]:
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
