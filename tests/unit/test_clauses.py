"""Where a text is cut into clauses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.routing import clauses as module
from fleet.routing.clauses import CHARACTERS, ENDS, clauses


def cut(text: str) -> list[str]:
    return [text[begin:end] for begin, end in clauses(text)]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("moderate this and pull out the names", ["moderate this", "pull out the names"]),
        ("moderate this; then tag it: Dear Ann", ["moderate this", "tag it", "Dear Ann"]),
        ("Moderiere das und liste die Orte auf", ["Moderiere das", "liste die Orte auf"]),
        ("проверь это и выпиши имена", ["проверь это", "выпиши имена"]),
        ("댓글을 확인해 그리고 이름을 뽑아", ["댓글을 확인해", "이름을 뽑아"]),
        ("请审核这条评论，然后提取人名。", ["请审核这条评论", "提取人名"]),
        ("rate it\nlist it", ["rate it", "list it"]),
        ("it costs 3,000.50 euros", ["it costs 3,000.50 euros"]),
        ("standing by the sandbank", ["standing by the sandbank"]),
        ("I need a fox", ["I need a fox"]),
        ("1. 2. 3!", []),
        ("", []),
    ],
)
def test_cuts_are_at_punctuation_and_at_words_for_and(text: str, pieces: list[str]) -> None:
    assert cut(text) == pieces


def test_of_a_long_text_both_ends_are_looked_at() -> None:
    found = cut(" ".join(f"sentence number {n}." for n in range(500)))
    assert found == [f"sentence number {n}" for n in (*range(ENDS), *range(500 - ENDS, 500))]


def test_of_a_long_text_only_the_ends_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    whole = module._cut

    def counted(text: str, begin: int, end: int) -> list[tuple[int, int]]:
        looked.append(end - begin)
        return whole(text, begin, end)

    monkeypatch.setattr(module, "_cut", counted)
    clauses("one thing, and another. " * 5000)
    assert looked == [CHARACTERS, CHARACTERS]


@given(st.text(max_size=3000))
def test_clauses_are_apart_and_in_order_in_any_text(text: str) -> None:
    found = clauses(text)
    assert len(found) <= 2 * ENDS
    edges = [edge for place in found for edge in place]
    assert edges == sorted(edges)
    assert all(0 <= begin < end <= len(text) for begin, end in found)
