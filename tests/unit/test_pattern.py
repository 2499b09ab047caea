"""A pattern read into nodes means what ``re`` makes of it; what cannot be used is refused by name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.pattern import Branch, Chain, Characters, Node, PatternError, Repeat, length, read_pattern

ITEMS = [
    "a", "b", "-", r"\.", r"\d", r"\w", r"\W", r"\S", "[a-c]", "[^ab]", "[^\\W_]", ".", "é", "🎉", r"\t", '"',
]  # fmt: skip


def whole(node: Node) -> str:
    """The strings of a node, as a pattern for ``re.fullmatch``."""
    match node:
        case Characters(ranges):
            return "[" + "".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in ranges) + "]"
        case Chain(parts):
            return "".join(map(whole, parts))
        case Branch(options):
            return f"(?:{'|'.join(map(whole, options))})"
        case Repeat(part, least, most):
            return f"(?:{whole(part)}){{{least},{'' if most is None else most}}}"


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
    node = read_pattern(pattern)
    least, most = length(node)
    for text in given_texts:
        inside = re.fullmatch(whole(node), text) is not None
        if inside:
            assert least <= len(text)
            assert most is None or len(text) <= most
        # A final $ lets re pass over one newline; an answer ends where it says.
        assert inside == (re.search(pattern, text) is not None) or ("$" in edge and text.endswith("\n"))


@pytest.mark.parametrize(
    ("pattern", "lengths"),
    [("^$", (0, 0)), ("", (0, None)), ("^a{2,5}$", (2, 5)), ("^(ab|c)?d$", (1, 3)), ("^(a*){0}$", (0, 0))],
)
def test_lengths(pattern: str, lengths: tuple[int, int | None]) -> None:
    assert length(read_pattern(pattern)) == lengths


@pytest.mark.parametrize("pattern", ["a$b", "(^a)+", "b^", "$^", "((a|^b)c)?"])
def test_an_anchor_that_is_not_at_an_edge_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match="in its middle"):
        read_pattern(pattern)


def test_half_of_a_pair_and_too_many_characters_are_refused() -> None:
    with pytest.raises(PatternError, match="holds no character"):
        read_pattern("\\ud800")
    with pytest.raises(PatternError, match="more than 5000"):
        read_pattern("(a{100}){51}")
