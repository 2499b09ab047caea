"""YAML comes out as plain values with their lines, and nothing else ever comes out."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from fleet.errors import ManifestError
from fleet.yaml_lines import parse_yaml

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


class Quoting(yaml.SafeDumper):
    """Quotes all text: 1.1 writes plain some words that 1.2 reads as something else."""


Quoting.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


@given(plain)
@example({"0E0": None})
def test_what_json_can_say_comes_back_unchanged(value: Any) -> None:
    text = yaml.dump(value, Dumper=Quoting, allow_unicode=True)
    if not any(isinstance(part, float) for part in _leaves(value)):
        assert parse_yaml(text, "f").value == value


@given(st.text(max_size=60))
@example("a: [1, 2\n")
@example("%YAML 1.1\n---\na: 1")
@example("a: b: c")
@example("? [x]\n: 1")
@example("a: !!binary xx")
@example("!!map [1]")
@example("!!int x")
@example("*a")
@example("a: &a [*a]")
@example("--- 1\n--- 2")
def test_any_text_is_plain_values_or_a_manifest_error(text: str) -> None:
    try:
        document = parse_yaml(text, "f")
    except ManifestError:
        return
    assert all(isinstance(leaf, (str, int, float, bool, type(None))) for leaf in _leaves(document.value))


def test_core_types_are_those_of_yaml_1_2() -> None:
    text = "[no, yes, on, 3e-4, .5, 1_000, 010, 1:30, 2024-01-02, null, ~, true, 0x10, -7, 1., .inf]"
    assert parse_yaml(text, "f").value == [
        "no", "yes", "on", 3e-4, 0.5, "1_000", 10, "1:30", "2024-01-02", None, None, True, "0x10", -7, 1.0,
        float("inf"),
    ]  # fmt: skip


def test_every_value_knows_its_line() -> None:
    document = parse_yaml("a: 1\nb:\n  - x\n  - c: 2\n\n    d: 3\n", "f")
    assert document.line(("a",)) == 1
    assert document.line(("b",)) == 2
    assert document.line(("b", 0)) == 3
    assert document.line(("b", 1, "d")) == 6
    assert document.line(("b", 1, "nowhere", "near")) == 4


def test_a_document_that_grows_through_aliases_is_refused() -> None:
    lines = ["a0: &a0 x"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)]
    with pytest.raises(ManifestError, match="yaml-too-large"):
        parse_yaml("\n".join(lines), "f")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ManifestError, match="yaml-too-large"):
        parse_yaml("[" * 60 + "]" * 60, "f")
    with pytest.raises(ManifestError, match="yaml-syntax"):
        parse_yaml("[" * 5000, "f")


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _leaves(part)] + list(value)
    if isinstance(value, list):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]
