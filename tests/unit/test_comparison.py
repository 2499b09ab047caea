"""When two answers agree, and how far two texts are alike."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.comparison import Comparison, compare, likeness


@pytest.mark.parametrize(
    ("said", "also", "agreed", "fields"),
    [
        ("good", "good", 1, {}),
        ("good", "bad", 0, {}),
        ({"a": 1, "b": None}, {"b": None, "a": 1}, 1, {"a": 1, "b": 1}),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, 0, {"a": 1, "b": 0}),
        ({"a": 1}, {"a": True}, 0, {"a": 0}),
        ({"a": 1}, {"c": 1}, 0, {"a": 0, "c": 0}),
    ],
)
def test_what_counts_as_agreement(said: Any, also: Any, agreed: int, fields: dict[str, int]) -> None:
    one = compare(said, also, free_text=False, champion_ms=2.0, challenger_ms=3.0)
    assert (one.asked, one.agreed, one.fields_agreed) == (1, agreed, fields)
    both = one + one + Comparison(skipped=2) + Comparison(asked=1, failed=1, failure="no")
    assert (both.asked, both.agreed, both.skipped, both.failed) == (3, 2 * agreed, 2, 1)
    assert both.fields_agreed == {name: 2 * count for name, count in fields.items()}
    assert (both.champion_ms, both.challenger_ms, both.failure) == (4.0, 6.0, "no")


def test_texts_are_alike_by_their_words() -> None:
    assert likeness("", "") == 1.0
    assert likeness("the fox is red", "the fox is red") == 1.0
    assert likeness("the fox is red", "the fox is old") == 0.75
    assert likeness("the fox", "") == 0.0
