"""Steering phrases for fitting are kept apart from the attacks that judge the fit."""

import json
from importlib.resources import files

from fleet.routing.attacks import templates


def trigrams(text: str) -> set[tuple[str, ...]]:
    words = text.casefold().split()
    return set(zip(words, words[1:], words[2:], strict=False))


def test_forty_phrases_share_no_three_words_in_a_row_with_an_attack() -> None:
    lines = (files("fleet.routing") / "background_steering.jsonl").read_text("utf-8").splitlines()
    phrases = {json.loads(line)["text"] for line in lines}
    attacked = set().union(*(trigrams(each.text) for each in templates()))
    assert len(phrases) == 40
    assert not [text for text in phrases if trigrams(text) & attacked]
