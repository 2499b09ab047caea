"""Which tasks the letters cannot tell apart."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.routing.collisions import Held, find_collisions, judge_letters

PARCELS = [f"where is parcel {n} that you sent on day {n}" for n in range(40)]
RECIPES = [f"stir {n} eggs with butter and sugar until {n} bubbles rise" for n in range(40)]


def test_copies_collide_whole_and_halves_of_one_task_nearly_so() -> None:
    (copy,) = find_collisions({"a": PARCELS, "b": list(reversed(PARCELS)), "c": RECIPES})
    assert (copy.first, copy.second, copy.there, copy.back, copy.twins) == ("a", "b", 1.0, 1.0, 40)
    assert all(PARCELS[i] == PARCELS[::-1][j] for i, j in copy.rows)
    mixed = sorted(PARCELS, key=lambda text: hashlib.sha256(text.encode()).digest())  # not odd and even
    (halves,) = find_collisions({"a": mixed[::2], "b": mixed[1::2], "c": RECIPES})
    assert halves.alike
    assert halves.twins == 0
    assert 0 < len(halves.rows) <= 3


def test_tasks_apart_do_not_collide_however_unequal() -> None:
    assert find_collisions({"a": PARCELS, "b": RECIPES[:12]}) == []
    assert find_collisions({"a": PARCELS}) == []
    assert find_collisions({}) == []


def test_a_few_rows_say_nothing_unless_they_are_the_same() -> None:
    assert find_collisions({"a": PARCELS[:5], "b": PARCELS[5:9]}) == []
    (one,) = find_collisions({"a": PARCELS[:5], "b": [*RECIPES, PARCELS[2].upper() + " !"]})
    assert not one.alike
    assert one.twins == 1
    assert one.rows == ((2, 40),)


def test_a_row_is_held_out_of_all_tasks_at_once_and_its_place_does_not_matter() -> None:
    straight = judge_letters({"a": PARCELS, "b": RECIPES})
    turned = judge_letters({"a": PARCELS[::-1], "b": RECIPES})
    by_row = dict(zip(straight["a"].rows, straight["a"].scores, strict=True))
    again = dict(zip(turned["a"].rows, turned["a"].scores, strict=True))
    assert by_row.keys() == set(range(40))
    assert all(np.array_equal(by_row[n], again[39 - n]) for n in by_row)


def test_large_tasks_are_sampled() -> None:
    many = [f"row {n}" for n in range(1000)]
    assert len(judge_letters({"a": many})["a"].rows) == 200


def test_scores_of_another_judge_are_taken() -> None:
    scores = np.array([[1.0, 2.0]] * 40)
    held = {"a": Held(tuple(range(40)), scores), "b": Held(tuple(range(40)), scores)}
    (pair,) = find_collisions({"a": PARCELS, "b": RECIPES}, held)
    assert (pair.there, pair.back) == (1.0, 0.0)


@pytest.mark.parametrize("text", ["", "   ", "🎉", "\ud800"])
@given(st.integers(0, 3))
def test_odd_texts_break_nothing(text: str, times: int) -> None:
    find_collisions({"a": [text] * times + PARCELS[:12], "b": [text] * times, "c": []})
