"""A pattern read into nodes means what ``re`` makes of it; what cannot be used is refused by name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.pattern import PatternError, holds, length, read_pattern

ITEMS = [
    "a", "b", "-", r"\.", r"\d", r"\w", r"\W", r"\S", "[a-c]", "[^ab]", "[^\\W_]", "[^\\d-]", r"[\d.]", ".",
    "é", "🎉", r"\t", '"',
]  # fmt: skip


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeats = st.sampled_from(["*", "+", "?", "{2}", "{,2}", "{1,3}", "*?"])
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda ways: f"({'|'.join(ways)})"),
        st.tuples(inner, repeats).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        inner.map(lambda one: f"(?i:{one})"),
    )


bodies = st.recursive(st.sampled_from(ITEMS), _grow, max_leaves=6)
edges = st.sampled_from(["{}", "^{}", "{}$", "^{}$", r"\A{}\Z", "^{}|b$", "(^|-){}", "{}(-|$)", "(?i){}"])
texts = st.text(alphabet='ab-.1_AéÉ🎉\t\n" 2٣', max_size=6)


@given(bodies, edges, st.lists(texts, min_size=1, max_size=8))
def test_a_node_holds_the_strings_in_which_the_pattern_is_found(
    body: str, edge: str, given_texts: list[str]
) -> None:
    pattern = edge.replace("{}", body)
    least, most = length(read_pattern(pattern))
    for text in given_texts:
        inside = holds(pattern, text)
        if inside:
            assert least <= len(text)
            assert most is None or len(text) <= most
        found = re.search(pattern, text) is not None
        # Narrower than re in two things: which digits there are, and what may follow a final $.
        narrower = ("\\d" in body and "٣" in text) or ("$" in edge and text.endswith("\n"))
        assert inside == found or (narrower and not inside)


@pytest.mark.parametrize(
    ("pattern", "lengths"),
    [("^$", (0, 0)), ("", (0, None)), ("^a{2,5}$", (2, 5)), ("^(ab|c)?d$", (1, 3)), ("^(a*){0}$", (0, 0))],
)
def test_lengths(pattern: str, lengths: tuple[int, int | None]) -> None:
    assert length(read_pattern(pattern)) == lengths


def test_digits_and_the_end_are_those_of_json_schema() -> None:
    assert holds(r"^\d{2}$", "42")
    assert not holds(r"^\d{2}$", "٤٢")
    assert not holds(r"^\D$", "٤")
    assert not holds("^a$", "a\n")
    assert holds(r"^\w+$", "Zoë")


@pytest.mark.parametrize("pattern", ["a$b", "(^a)+", "b^", "$^", "((a|^b)c)?"])
def test_an_anchor_that_is_not_at_an_edge_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match="in its middle"):
        read_pattern(pattern)


def test_half_of_a_pair_and_too_many_characters_are_refused() -> None:
    with pytest.raises(PatternError, match="holds no character"):
        read_pattern("\\ud800")
    with pytest.raises(PatternError, match="more than 5000"):
        read_pattern("(a{100}){51}")
