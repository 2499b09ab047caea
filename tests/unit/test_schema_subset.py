"""The subset accepts what it says, names what it does not, and changes no meaning on the way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from fleet.schema_subset import unsupported_features
from fleet.schema_values import property_order, resolved, verbatim_values

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": ["string", "null"], "x-verbatim": True, "description": "who"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}, "minItems": 1},
        "when": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"},
        "paid": {"anyOf": [{"type": "boolean"}, {"enum": ["later", None]}]},
    },
    "required": ["items"],
    "additionalProperties": False,
    "$defs": {
        "item": {
            "type": "object",
            "properties": {
                "what": {"type": "string", "x-verbatim": True},
                "count": {"type": "integer", "minimum": 1},
            },
        }
    },
}


def test_a_schema_within_the_subset_has_nothing_unsupported() -> None:
    assert unsupported_features(ORDER) == []


@pytest.mark.parametrize(
    ("node", "pointer", "feature"),
    [
        ({"type": "string", "format": "date"}, "/format", "the keyword format"),
        ({"type": "integer", "minLength": 2}, "/minLength", "minLength on type integer"),
        ({"type": "text"}, "/type", "the type text"),
        ({}, "", "a value of any type (give a type, enum, const, anyOf or $ref)"),
        (True, "", "a schema that is not a mapping"),
        ({"type": "array"}, "", "an array without items"),
        ({"type": "object"}, "/properties", "an object without properties"),
        ({"type": "string", "x-verbatim": True, "pattern": "a"}, "/pattern", "pattern beside x-verbatim"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "/minLength", "minLength above maxLength"),
        ({"type": "string", "maxLength": -1}, "/maxLength", "maxLength that is not a whole number from 0 up"),
        ({"enum": []}, "/enum", "enum that is not a list of values"),
        ({"enum": ["x", "x"]}, "/enum/1", "enum with the same value twice"),
        ({"type": "string", "enum": ["x", 1]}, "/enum/1", "enum of a value that is not of type string"),
        ({"const": {"a": 1}}, "/const", "const of something other than text, numbers, booleans or null"),
        ({"$ref": "other.json"}, "/$ref", "$ref to anything but #/$defs/..."),
        ({"$ref": "#/$defs/none"}, "/$ref", "$ref to 'none', which $defs does not have"),
        (
            {"type": "string", "pattern": r"(?=a)b"},
            "/pattern",
            "a pattern with look-around, word boundaries or back-references",
        ),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named_with_its_place(node: Any, pointer: str, feature: str) -> None:
    assert ("/properties/a" + pointer, feature) in unsupported_features(
        {"type": "object", "properties": {"a": node}}
    )


def test_recursion_and_explosion_through_references_are_refused() -> None:
    again = {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}
    assert "recursion" in unsupported_features({"$ref": "#/$defs/a", "$defs": again})[0][1]
    doubling: dict[str, Any] = {"d0": {"type": "null"}}
    for i in range(1, 40):
        doubling[f"d{i}"] = {"anyOf": [{"$ref": f"#/$defs/d{i - 1}"}] * 2}
    assert "more than" in unsupported_features({"$ref": "#/$defs/d39", "$defs": doubling})[0][1]


def test_resolving_refuses_what_is_unsupported() -> None:
    with pytest.raises(ValueError, match="the keyword format at /format"):
        resolved({"type": "string", "format": "date"})


def test_verbatim_values_are_found_through_references_and_choices() -> None:
    value = {"items": [{"what": "tea", "count": 2}, {"what": "jam"}], "name": None, "paid": "later"}
    assert list(verbatim_values(ORDER, value)) == [("/items/0/what", "tea"), ("/items/1/what", "jam")]


def test_keys_come_out_in_the_schema_s_order() -> None:
    ordered = property_order(ORDER, {"paid": True, "items": [{"count": 1, "what": "x"}], "name": "n"})
    assert list(ordered) == ["name", "items", "paid"]
    assert list(ordered["items"][0]) == ["what", "count"]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "tea", "later", "2024-05"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["name", "items", "when", "paid", "what", "count"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(values)
def test_resolving_changes_no_verdict_but_closes_objects(value: Any) -> None:
    closed = {**ORDER, "$defs": {"item": {**ORDER["$defs"]["item"], "additionalProperties": False}}}
    assert Draft202012Validator(resolved(ORDER)).is_valid(value) == Draft202012Validator(closed).is_valid(
        value
    )


@given(values)
def test_any_value_at_all_can_be_asked_about(value: Any) -> None:
    if isinstance(value, dict):
        assert isinstance(unsupported_features(value), list)
    assert isinstance(
        unsupported_features({"type": "object", "properties": {"a": value}, "$defs": value}), list
    )
    assert list(verbatim_values(ORDER, value)) is not None
    if isinstance(value, dict):
        assert property_order(ORDER, value) == value
