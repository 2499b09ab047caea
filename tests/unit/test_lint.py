"""The rules over many rows: near duplicates, sizes, lengths, tasks that look alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.apart import apart_faults
from fleet.data.balance import detectable_difference, paired_rows_needed
from fleet.data.check import check_project
from fleet.data.duplicates import NEAR, near_pairs, shingles
from fleet.data.lint import lint_task
from fleet.data.rows import Row, TaskRows
from fleet.manifest import Manifest
from fleet.project import Project

ROOT = Path(__file__).parents[2]

words = st.lists(
    st.sampled_from(["the", "parcel", "came", "late", "again", "and", "nobody", "said", "why"]),
    min_size=3,
    max_size=9,
)


def task(name: str = "tone", **changes: Any) -> Manifest:
    whole: dict[str, Any] = {
        "task": name,
        "description": "d",
        "kind": "classification",
        "labels": ["good", "bad"],
        "data": {"train": "train.jsonl", "eval": "eval.jsonl"},
    }
    return Manifest.model_validate({**whole, **changes})


def rows(train: list[str], held: list[str]) -> TaskRows:
    def made(texts: list[str], file: str) -> list[Row]:
        outputs = ("good", "bad")
        return [Row({"text": text}, outputs[i % 2], file, i + 1) for i, text in enumerate(texts)]

    return TaskRows(made(train, "train.jsonl"), made(held, "eval.jsonl"), "digest")


@given(st.lists(words.map(" ".join), max_size=12))
def test_near_pairs_are_those_that_comparing_all_finds(texts: list[str]) -> None:
    found = {(pair.first, pair.second) for pair in near_pairs(texts)}
    first = {text: index for index, text in reversed(list(enumerate(texts)))}
    kept = sorted(first.values())
    sure = set()
    for i in kept:
        for j in kept:
            a, b = shingles(texts[i]), shingles(texts[j])
            if i < j and len(a & b) / len(a | b) >= NEAR:
                sure.add((i, j))
    assert found <= sure
    # Hashing may miss a pair at the very threshold, about once in 800; well above it, never in practice.
    for i, j in sure - found:
        a, b = shingles(texts[i]), shingles(texts[j])
        assert len(a & b) / len(a | b) < 0.6


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    assert "订单已" in shingles("订单已经送到了")
    assert "ご注文" in shingles("ご注文ありがとう")
    assert "주문이 어제 도착했어요" in shingles("주문이 어제 도착했어요")
    assert shingles("so short") == {"so short"}
    assert shingles("!!!") == {"!!!"}


def test_rows_for_a_difference_agree_with_connor_s_formula() -> None:
    # By hand: (1.959964 * sqrt(.1) + .841621 * sqrt(.1 - .0025))^2 / .0025 = 311.9...
    assert paired_rows_needed(0.05) == 312
    assert paired_rows_needed(0.05, discordant=0.2) > 312
    with pytest.raises(ValueError, match="difference"):
        paired_rows_needed(0)


@given(st.integers(1, 100_000))
def test_the_detectable_difference_is_what_so_many_rows_can_show(count: int) -> None:
    seen = detectable_difference(count)
    assert 0 < seen <= 1
    if seen < 1:
        assert paired_rows_needed(seen) <= count
        assert paired_rows_needed(seen * 0.99) >= count


def test_a_small_evaluation_set_says_what_it_can_show() -> None:
    few = rows([f"training {i} {i * 7}" for i in range(10)], [f"held out {i} of {i * 3}" for i in range(80)])
    found = [f for f in lint_task(task(), few) if f.rule == "eval-too-small"]
    assert "80 eval rows can show a difference of 9.8 points" in found[0].message
    assert found[0].severity == "warning"
    assert not [f for f in lint_task(task(), few, min_effect=0.1) if f.rule == "eval-too-small"]


def test_lengths_are_errors_when_counted_and_warnings_when_estimated() -> None:
    long = rows(["one two three four five six seven eight", "short"], ["a", "b"])
    manifest = task(serving={"max_input_tokens": 6})
    counted = lint_task(manifest, long, count_tokens=lambda text: len(text.split()))
    assert [(f.rule, f.value, f.severity) for f in counted if "long" in f.rule] == [
        ("row-too-long", "8", "error")
    ]
    estimated = lint_task(manifest, long)
    assert [(f.rule, f.severity) for f in estimated if "long" in f.rule] == [("row-too-long", "warning")]


def test_tasks_with_the_same_kind_of_jobs_look_alike() -> None:
    parcels = [f"where is parcel {i} that you sent on day {i}" for i in range(30)]
    recipes = [f"stir {i} eggs with butter and sugar until {i} bubbles rise" for i in range(30)]
    shipping = [f"where is parcel {i} that you sent on day {i}" for i in range(100, 130)]
    apart = {"a": (task("a1"), rows(parcels, [])), "b": (task("b1"), rows(recipes, []))}
    assert apart_faults(apart) == []
    alike = {**apart, "c": (task("c1"), rows(shipping, []))}
    (fault,) = apart_faults(alike)
    assert (fault.rule, fault.file, fault.value) == ("tasks-alike", "tasks/a1/task.yaml", "c")
    assert fault.severity == "warning"
    assert fault.message.count("where is parcel") == 6
    assert "train.jsonl:" in fault.message


def test_a_row_in_two_tasks_is_named_with_both_its_places() -> None:
    parcels = [f"where is parcel {i} that you sent on day {i}" for i in range(30)]
    recipes = [f"stir {i} eggs with butter and sugar until {i} bubbles rise" for i in range(30)]
    fleet = {
        "a": (task("a1"), rows(parcels, [])),
        "b": (task("b1"), rows([*recipes, "Where is parcel 7, that you sent on DAY 7?"], [])),
    }
    (fault,) = apart_faults(fleet)
    assert (fault.rule, fault.severity) == ("rows-in-two-tasks", "warning")
    assert "share 1 training row" in fault.message
    assert "train.jsonl:8 'where is parcel 7 that you sent on day 7'" in fault.message
    assert "train.jsonl:31 'where is parcel 7, that" in fault.message


def test_generation_may_answer_the_same_input_in_two_ways() -> None:
    manifest = task(kind="generation", labels=None)
    twice = TaskRows(
        [Row({"text": "a bear"}, "Once.", "t", 1), Row({"text": "A  bear"}, "There was.", "t", 2)],
        [Row({"text": "a fox"}, "A fox.", "e", 1)],
        "digest",
    )
    assert lint_task(manifest, twice) == []


def test_the_starter_tasks_have_no_fault_but_their_size() -> None:
    found = check_project(Project.find(ROOT), between=apart_faults)
    assert [str(fault) for fault in found if fault.rule != "eval-too-small"] == []
