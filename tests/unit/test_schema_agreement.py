"""When every answer of a task is valid under a schema that somebody else wrote."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.schema_agreement import disagreement

RECORD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "who": {"type": "string", "x-verbatim": True},
        "code": {"type": ["string", "null"], "pattern": "^[A-Z]{2}\\d+$"},
        "size": {"enum": ["S", "M", 3]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 4},
        "paid": {"type": "boolean"},
    },
    "required": ["who", "code", "size", "count", "tags"],
    "$defs": {"tag": {"type": "string", "minLength": 1, "maxLength": 8}},
}
PROPERTIES: dict[str, Any] = RECORD["properties"]
TREE = {
    "$ref": "#/$defs/any",
    "$defs": {"any": {"anyOf": [{"$ref": "#/$defs/any"}, {"$ref": "#/$defs/any"}]}},
}


def changed(**properties: Any) -> dict[str, Any]:
    return {**RECORD, "properties": {**PROPERTIES, **properties}}


@pytest.mark.parametrize(
    "wanted",
    [
        RECORD,
        True,
        {},
        {"type": "object"},
        {**RECORD, "properties": dict(reversed(PROPERTIES.items())), "title": "R", "x-strict": 1},
        {**RECORD, "additionalProperties": False, "$schema": "https://json-schema.org/draft/2020-12/schema"},
        changed(who={"type": "string", "minLength": 1}),
        changed(code={"anyOf": [{"type": "string"}, {"type": "null"}]}),
        changed(code={"anyOf": [PROPERTIES["code"], {"type": "number"}]}),
        changed(size={"enum": [3.0, "M", "S", "XL"]}),
        changed(size={"type": ["string", "integer"]}),
        changed(count={"type": "number", "exclusiveMaximum": 10, "minimum": -1, "multipleOf": 1}),
        changed(count={"allOf": [{"type": "integer"}, {"maximum": 9}], "pattern": "only of strings"}),
        changed(tags={"type": "array", "items": {"type": "string"}, "maxItems": 5}),
        changed(paid={"enum": [True, False]}),
        changed(more={"type": "string"}),
        {"$ref": "#/definitions/r", "definitions": {"r": {"type": "object", "required": ["who", "code"]}}},
        {
            "type": "object",
            "additionalProperties": {"type": ["string", "null", "number", "array", "boolean"]},
        },
    ],
)
def test_a_schema_that_allows_at_least_as_much_agrees(wanted: Any) -> None:
    assert disagreement(wanted, RECORD) is None


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (False, "/: nothing is allowed there"),
        ("object", "/: nothing is allowed there"),
        ({"type": "array"}, "/: it is of type object, not array"),
        ({"type": 3}, "not of none"),
        ({**RECORD, "required": [*PROPERTIES]}, "/paid: it is required and may be left out"),
        ({**RECORD, "required": ["whom"]}, "/whom: it is required and never answered"),
        (
            {"type": "object", "properties": {"who": {}}, "additionalProperties": False},
            "/code: it is answered, and no other properties are allowed",
        ),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "/code: it is of type null"),
        (changed(code={"type": "string"}), "/code: it is of type null, not string"),
        (changed(who={"type": "string", "minLength": 2}), "/who: minLength 2 is not known to hold"),
        (changed(who={"type": "string", "maxLength": 9}), "/who: maxLength 9"),
        (changed(who={"type": "string", "format": "date"}), "/who: format is not known to hold"),
        (changed(who={"type": "string", "pattern": "a"}), "/who: nothing makes it match the pattern 'a'"),
        (changed(who={"const": "Anna"}), "/who: it is any string, not one of a few values"),
        (changed(size={"enum": ["S", "M"]}), "/size: it can be 3"),
        (changed(size={"enum": ["S", "M", True]}), "/size: it can be 3"),
        (changed(count={"type": "integer", "exclusiveMinimum": 0}), "/count: exclusiveMinimum 0"),
        (changed(count={"type": "integer", "maximum": "9"}), "/count: maximum '9'"),
        (changed(count={"type": "integer", "multipleOf": 3}), "/count: nothing makes it a multiple of 3"),
        (changed(tags={"type": "array", "items": {"type": "integer"}}), "/tags/items: it is of type string"),
        (changed(tags={"type": "array", "uniqueItems": True}), "/tags: its items may be the same"),
        (changed(tags={"type": "array", "prefixItems": []}), "/tags: prefixItems is not known to hold"),
        (changed(paid={"const": True}), "/paid: it can be False"),
        ({"oneOf": [RECORD]}, "/: oneOf is not known to hold"),
        ({"anyOf": [{"type": "object"}, 3], "not": {}}, "/: not is not known to hold"),
        ({"anyOf": []}, "no alternative of anyOf"),
        ({"anyOf": 3}, "no alternative of anyOf"),
        ({"allOf": 3}, "allOf is no list"),
        ({"properties": 3}, "properties is no object"),
        ({"$ref": "#"}, "$ref '#' cannot be followed"),
        ({"$ref": "https://example.com/x"}, "cannot be followed"),
        ({"$ref": "#/$defs/none"}, "names nothing"),
        ({"$ref": "#/anyOf/x", "anyOf": [{}]}, "names nothing"),
        ({"$ref": 3}, "cannot be followed"),
        (TREE, "no alternative of anyOf"),
    ],
)
def test_a_schema_that_an_answer_may_break_is_told_where(wanted: Any, said: str) -> None:
    assert said in str(disagreement(wanted, RECORD))


LONG = {"$defs": {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(3000)} | {"3000": True}}
WIDE = {
    "allOf": [{"allOf": [{"$ref": "#/$defs/many"}] * 100}] * 95,
    "$defs": {"many": {"enum": [*range(30_000), None]}},
}


@pytest.mark.parametrize(
    "wanted",
    [
        {"required": [["who"]]},
        {"required": [{}]},
        {"required": "who"},
        {"properties": {"who": {"type": [["string"]]}}},
        {"$ref": "#/$defs/0", **LONG},
    ],
)
def test_what_is_no_schema_does_not_agree_and_breaks_nothing(wanted: Any) -> None:
    assert disagreement(wanted, RECORD) is not None


def test_values_that_are_compared_again_and_again_count_each_time() -> None:
    given = {"type": "object", "properties": {"x": {"type": "null"}}, "required": ["x"]}
    found = disagreement({"properties": {"x": WIDE}, "$defs": WIDE["$defs"]}, given)
    assert found == "it is too large to be compared"


def test_a_schema_made_to_be_compared_for_ever_is_given_up() -> None:
    names = [f"n{n}" for n in range(12)]
    defs = {name: {"anyOf": [{"$ref": f"#/$defs/{other}"} for other in names]} for name in names}
    assert disagreement({"$ref": "#/$defs/n0", "$defs": defs}, RECORD) == "it is too large to be compared"


LIMITS = st.integers(0, 3)
LEAVES = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "number", "boolean", "null"])},
        optional={"minLength": LIMITS, "maxLength": LIMITS, "minimum": LIMITS, "maximum": LIMITS},
    ),
    st.fixed_dictionaries(
        {"enum": st.lists(st.sampled_from(["a", "bb", 1, 2.5, True, None]), min_size=1, max_size=3)}
    ),
)


def _object(parts: dict[str, Any], needed: set[str], closed: bool) -> dict[str, Any]:
    closing = {"additionalProperties": False} if closed else {}
    return {"type": "object", "properties": parts, "required": sorted(needed & parts.keys())} | closing


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            _object,
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
            st.sets(st.sampled_from("abc")),
            st.booleans(),
        ),
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner}, optional={"minItems": LIMITS, "maxItems": LIMITS}
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
    ),
    max_leaves=4,
)
VALUES = st.recursive(
    st.sampled_from(["", "a", "bb", "dddd", 0, 1, 2.5, 7, True, False, None]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=4,
)


def _closed(node: Any) -> Any:
    """As the task's side reads a schema: every object closed."""
    if isinstance(node, dict):
        closing = {"additionalProperties": False} if node.get("type") == "object" else {}
        return {key: _closed(value) for key, value in node.items()} | closing
    return [_closed(item) for item in node] if isinstance(node, list) else node


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.one_of(st.tuples(SCHEMAS, SCHEMAS), SCHEMAS.map(lambda s: (s, s))), st.lists(VALUES, max_size=20))
def test_no_answer_breaks_a_schema_that_is_said_to_agree(pair: tuple[Any, Any], values: list[Any]) -> None:
    wanted, task = pair
    try:
        found = disagreement(wanted, task)
    except ValueError:  # not a schema that a task may have
        return
    if found is None:
        valid = jsonschema.Draft202012Validator(_closed(task)).is_valid
        for value in filter(valid, values):
            jsonschema.Draft202012Validator(wanted).validate(value)


@settings(max_examples=100, deadline=None)
@given(SCHEMAS)
def test_a_schema_agrees_with_itself(schema: Any) -> None:
    try:
        found = disagreement(schema, schema)
    except ValueError:
        return
    assert found is None
