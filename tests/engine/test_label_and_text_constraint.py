"""Labels and free text."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.number_regex import at_least, at_most, integer_regex, number_regex
from fleet.engine.specs import LabelSpec, TextSpec
from fleet.engine.vocabulary import Vocabulary, split_utf8

AWKWARD = (
    "ok",
    "ok-ish",
    "okay",
    "оk",
    "مرحبا",
    "שלום",
    "🎉",
    "🎉🎉",
    "订单",
    "a b",
    "a  b",
    '"',
    "<eos>",
    "ok ok",
)


@pytest.fixture(scope="module")
def vocabulary(tiny_base_folder: Path) -> Vocabulary:
    return Vocabulary.of(PreTrainedTokenizerFast.from_pretrained(tiny_base_folder))


@pytest.fixture(scope="module")
def compiler(tiny_base_folder: Path) -> ConstraintCompiler:
    return ConstraintCompiler(PreTrainedTokenizerFast.from_pretrained(tiny_base_folder))


def every_label_can_be_reached(compiler: ConstraintCompiler, vocabulary: Vocabulary, spec: LabelSpec) -> None:
    for label in spec.labels:
        target = [*vocabulary.encode(" " + label), vocabulary.eos]
        constraint, place = compiler.start(spec), 0
        while not constraint.done:
            forced = constraint.forced()
            assert forced == target[place : place + len(forced)]
            place += len(forced)
            if not constraint.done:
                ids = constraint.allowed()
                assert ids is not None
                assert len(ids) >= 2
                assert target[place] in ids.tolist()
                constraint.advance(target[place])
                place += 1
        assert constraint.value() == label


def test_labels_that_share_prefixes_and_scripts(compiler: ConstraintCompiler, vocabulary: Vocabulary) -> None:
    every_label_can_be_reached(compiler, vocabulary, LabelSpec(AWKWARD))


def test_a_thousand_labels(compiler: ConstraintCompiler, vocabulary: Vocabulary) -> None:
    labels = tuple(f"{kind}-{i}" for kind in ("order", "order-line", "return", "配送") for i in range(250))
    every_label_can_be_reached(compiler, vocabulary, LabelSpec(labels))


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    labels=st.lists(st.text(min_size=1, max_size=8).filter(str.strip), min_size=2, max_size=12, unique=True),
    seed=st.integers(0, 99),
    limit=st.integers(0, 6),
)
def test_any_path_ends_in_a_label(
    compiler: ConstraintCompiler, labels: list[str], seed: int, limit: int
) -> None:
    spec = LabelSpec(tuple(label.replace("▁", "_") for label in labels))
    constraint, chance = compiler.start(spec), random.Random(seed)
    for _ in range(limit):
        constraint.forced()
        if constraint.done:
            break
        ids = constraint.allowed()
        assert ids is not None
        constraint.advance(chance.choice(ids.tolist()))
    if not constraint.done:
        constraint.close()
    assert constraint.value() in spec.labels


def test_answers_of_one_task_share_the_allowed_ids(compiler: ConstraintCompiler) -> None:
    spec = LabelSpec(("yes", "no"))
    first, second = compiler.start(spec), compiler.start(spec)
    first.forced(), second.forced()
    assert first.allowed() is second.allowed()
    with pytest.raises(ValueError, match="no label"):
        first.advance(0)
    with pytest.raises(ValueError, match="not complete"):
        first.value()


def test_labels_that_the_tokenizer_cannot_tell_apart(compiler: ConstraintCompiler) -> None:
    with pytest.raises(ValueError, match="same to the tokenizer"):
        compiler.start(LabelSpec(("a b", "a▁b")))


@pytest.mark.parametrize("text", ["Once upon a time", "a🎉b", " two spaces", "<eos> in text"])
def test_text_ends_at_the_end_token(compiler: ConstraintCompiler, vocabulary: Vocabulary, text: str) -> None:
    constraint = compiler.start(TextSpec())
    for token in (*vocabulary.encode(" " + text), vocabulary.eos):
        assert not constraint.done
        assert constraint.forced() == []
        assert constraint.allowed() is None
        mask = constraint.mask()
        assert mask is not None
        assert mask[token]
        constraint.advance(token)
    assert constraint.done
    assert constraint.value() == text


def test_text_ends_before_a_stop_string(compiler: ConstraintCompiler, vocabulary: Vocabulary) -> None:
    constraint = compiler.start(TextSpec(stop=("THE END", "\n\n")))
    for token in vocabulary.encode(" A fox slept. THE ENDING"):
        if constraint.done:
            break
        constraint.advance(token)
    assert constraint.done
    assert constraint.value() == "A fox slept. "


def test_text_cut_within_a_character(compiler: ConstraintCompiler, vocabulary: Vocabulary) -> None:
    constraint = compiler.start(TextSpec())
    for byte in " ok 🎉".encode()[:-1]:
        constraint.advance(int(vocabulary.byte_tokens[byte]))
    assert constraint.close() == []
    assert constraint.value() == "ok "
    with pytest.raises(ValueError, match="not text"):
        compiler.start(TextSpec()).advance(0)


@given(low=st.integers(-2000, 2000), width=st.integers(0, 3000), near=st.integers(-3000, 6000))
def test_integer_ranges(low: int, width: int, near: int) -> None:
    pattern = re.compile(integer_regex(low, low + width))
    for number in (low, low - 1, low + width, low + width + 1, low + near):
        assert bool(pattern.fullmatch(str(number))) == (low <= number <= low + width)
    assert not pattern.fullmatch("-0")
    assert not pattern.fullmatch("007")


def test_integer_ranges_without_a_bound() -> None:
    assert re.fullmatch(integer_regex(None, -5), "-123456789")
    assert not re.fullmatch(integer_regex(None, -5), "-4")
    assert re.fullmatch(integer_regex(7.5, None), "8")
    with pytest.raises(ValueError, match="no integer"):
        integer_regex(1.2, 1.8)


decimals = st.one_of(
    st.integers(-2000, 2000),
    st.floats(-50, 50),
    st.decimals(-9, 9, places=2).map(float),
    st.floats(-1e-3, 1e-3),
)


@given(number=decimals, bound=decimals)
def test_number_ranges(number: float, bound: float) -> None:
    text = json.dumps(number)
    assert re.fullmatch(number_regex(), text)
    # A bound within the reach of exponents (below 1e-4) only admits numbers written without one.
    plain = "e" not in text or abs(bound) >= 1e-4 or bound == 0
    for regex, inside in ((at_least(bound), number >= bound), (at_most(bound), number <= bound)):
        matched = bool(re.fullmatch(regex, text))
        assert matched == inside if plain else not matched or inside


def test_a_bound_whose_last_digits_a_double_does_not_write() -> None:
    assert int(1e30) == 1000000000000000019884624838656
    assert re.fullmatch(at_least(1e30), str(int(1e30)))
    assert not re.fullmatch(at_least(1e30), str(10**30))
    assert re.fullmatch(at_most(1e30), str(10**30))
    assert not re.fullmatch(at_most(1e30), str(int(1e30) + 1))
    assert re.fullmatch(at_least(10**30), str(10**30))


@pytest.mark.parametrize("text", ["0.0", "0", "5", "5.0", "4.99", "1e-05", "5e-324"])
def test_numbers_at_and_within_bounds(text: str) -> None:
    assert re.fullmatch(at_least(0), text)
    assert re.fullmatch(at_most(5), text)
    assert not re.fullmatch(at_most(-0.5), text)


@given(text=st.text(max_size=6), start=st.integers(0, 3), stop=st.integers(0, 24))
def test_split_utf8(text: str, start: int, stop: int) -> None:
    cut = text.encode()[start:stop]
    begun, whole, rest = split_utf8(cut)
    assert begun + whole + rest == cut
    whole.decode()
    assert len(begun) < 4
    assert len(rest) < 4


@settings(deadline=None)
@given(text=st.text(max_size=20))
def test_vocabulary_spells_what_it_encodes(vocabulary: Vocabulary, text: str) -> None:
    text = text.replace("▁", "_")
    assert vocabulary.spell(vocabulary.encode(text)) == text.encode()
