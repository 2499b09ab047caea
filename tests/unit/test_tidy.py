"""What the router reads of a text: the same, however it was typed."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleet.routing.content import words
from fleet.routing.perturb import perturbed
from fleet.routing.tidy import tidy


@given(st.text())
@example(":\r{")
def test_a_tidy_text_stays_as_it_is_and_says_the_same(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)
    assert words(tidy(text)) == words(text)


@pytest.mark.parametrize(
    "text", ["Where is my parcel?", "Extract the people:\nAnna met Bo\n\nin Oslo", "где моя посылка"]
)
def test_spaces_and_capitals_change_nothing(text: str) -> None:
    assert tidy(text) == text
    for seed in range(5):
        spaced = perturbed("whitespace", text, seed)
        assert spaced is not None
        assert tidy(spaced) == text
        assert tidy(spaced.upper()) == text.lower()


@pytest.mark.parametrize("text", ["NASA", "AB-17", "Ask NASA", "", "1 2", "你好 世界", "a\tb\r\nc"])
def test_names_codes_and_scripts_without_case_keep_theirs(text: str) -> None:
    assert tidy(text).split() == text.split()
