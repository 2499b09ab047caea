"""Which rows the router learns a task by, and in which folds they are held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.routing.content import words
from fleet.routing.evidence import CROSSED, EXAMPLE, FOLDS, INPUT, LIMIT, pick_rows, spread

texts = st.lists(st.text(min_size=0, max_size=12), max_size=40)


@given(texts, st.lists(st.text(max_size=8), max_size=3), st.randoms(use_true_random=False))
def test_picks_do_not_depend_on_order_and_never_leak(
    inputs: list[str], examples: list[str], random: object
) -> None:
    def pick(order: list[str]) -> list[tuple[str, int, int]]:
        return [(p.text, p.kind, p.fold) for p in pick_rows(order, examples, ["s"] * len(order))]

    shuffled = list(inputs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    picks = pick(inputs)
    assert picks == pick(shuffled)
    folds = {text: fold for text, kind, fold in picks if kind == INPUT}
    assert set(folds) == {text for text in inputs if text.strip()}
    for text, kind, fold in picks:
        if kind == CROSSED:
            ends = [each for each in folds if text.endswith("\n" + each) or text.startswith(each + "\n")]
            assert any(folds[each] == fold for each in ends)
            assert any(other == fold for _, each, other in picks if each == EXAMPLE)


def test_rows_that_say_the_same_are_held_out_together() -> None:
    rows = [f"Row {n}, please!" for n in range(30)]
    rows += [text.upper() for text in rows] + [f"{text} " for text in rows]
    examples = ["ROW 7 PLEASE", "unlike any"]
    picks = pick_rows(rows, examples, ["s"] * len(rows))
    folds: dict[str, set[int]] = {}
    for each in picks:
        if each.kind != CROSSED:
            folds.setdefault(words(each.text), set()).add(each.fold)
    assert len(folds) == 31
    assert all(len(found) == 1 for found in folds.values())
    assert len({fold for found in folds.values() for fold in found}) == FOLDS


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_every_example_is_crossed_however_few_inputs_there_are(inputs: int) -> None:
    examples = [f"ask for {n}" for n in range(7)]
    picks = pick_rows([f"input {n}" for n in range(inputs)], examples, ["s"] * inputs)
    crossed = {pick.source.split(" + ")[0] for pick in picks if pick.kind == CROSSED}
    assert len(crossed) == len(examples)


@given(st.integers(0, 300), st.integers(0, 300))
def test_some_of_many_are_spread_evenly(count: int, some: int) -> None:
    found = spread(count, some)
    assert len(found) == min(count, some)
    assert (np.diff(found) > 0).all()
    assert len(found) < 20 or np.diff(found).max() <= 3 * -(-count // len(found))
    for period in (2, 4, 9):  # no kind of row that comes in turns is left out
        assert len(found) < 4 * period or len(set(found % period)) == period


def test_a_large_task_is_bounded() -> None:
    many = [f"row {n}" for n in range(LIMIT + 300)]
    assert len(pick_rows(many, ["an example"], [""] * len(many))) <= LIMIT + 10
