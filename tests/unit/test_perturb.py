"""Perturbations: the same pair gives the same text, and it is a changed text or None."""

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from fleet.routing.perturb import KINDS, perturbed


@given(kind=st.sampled_from(sorted(KINDS)), text=st.text(), seed=st.integers(0, 9))
def test_a_change_is_repeatable_never_empty_and_never_the_text_itself(
    kind: str, text: str, seed: int
) -> None:
    changed = perturbed(kind, text, seed)
    assert changed == perturbed(kind, text, seed)
    if changed is not None:
        assert changed.strip()
        assert changed != text
        assert len(changed.encode()) <= 4 * len(text.encode()) + 8


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_changes_an_ordinary_question(kind: str) -> None:
    assert perturbed(kind, "Where is my parcel, and when will it come?", 1)


def test_a_kind_that_has_nothing_to_change_says_so() -> None:
    assert perturbed("punctuation dropped", "no marks here", 1) is None
    assert perturbed("upper case", "مرحبا", 1) is None
    assert perturbed("truncation", "only three words", 1) is None


def test_a_typo_keeps_graphemes_whole_and_the_ends_in_place() -> None:
    text = "क्षत्रियनगर"
    changed = perturbed("typos", text, 1)
    assert changed is not None
    before, after = regex.findall(r"\X", text), regex.findall(r"\X", changed)
    assert sorted(before) == sorted(after)
    assert (before[0], before[-1]) == (after[0], after[-1])
