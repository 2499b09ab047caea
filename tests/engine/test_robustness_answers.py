"""Whatever is asked, in whatever company, of a model that knows nothing: every answer is valid."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_strategies import PIECES, checker, documents, texts
from llguidance import LLMatcher, LLParserLimits
from shop import Shop

from fleet.engine.decode import Completion
from fleet.engine.schema_constraint import SchemaConstraint, Traits
from fleet.engine.specs import ConstraintSpec, LabelSpec, SchemaSpec, TextSpec
from fleet.engine.vocabulary import Vocabulary
from fleet.errors import JobError
from fleet.schema_subset import unsupported_features

PREFIXED = ("a", "aa", "aaa", "ab", "a b", "a  b", "order", "order-line", "order line", "orders", "Order")
SCRIPTS = (
    "🎉", "🎉🎉", "👩", "👩‍👩", "👩‍👩‍👧", "שלום", "שלום עולם", "مرحبا", "مرحبا بالعالم", "\u200fשלום",
    "订单", "订单已", "é", "e\u0301", "ok", "оk", "ﬁ", "fi", "ß", "ss", "İ",
)  # fmt: skip
TEXTUAL = ("<eos>", "<bos>x", '"', "\\", "{", "null", "0", "-", "'", "a\u2028b", "a\tb")

labels = st.lists(
    st.one_of(
        st.sampled_from(PREFIXED + SCRIPTS + TEXTUAL),
        # The tokenizers spell U+2581 as a space: two labels that differ so are one.
        st.text(min_size=1, max_size=6).filter(str.strip).map(lambda text: text.replace("▁", "_")),
    ),
    min_size=2,
    max_size=14,
    unique=True,
).map(lambda some: LabelSpec(tuple(some)))
free = st.builds(
    TextSpec,
    temperature=st.sampled_from([0.0, 0.7, 2.0, 1e-40]),
    top_p=st.sampled_from([0.1, 0.9, 1.0]),
    seed=st.integers(0, 99),
    stop=st.lists(st.sampled_from(["e", "\n\n", "🎉", " a"]), max_size=2).map(tuple),
)
records = documents().filter(lambda schema: not unsupported_features(schema)).map(SchemaSpec)
drawn = st.builds(TextSpec, temperature=st.sampled_from([0.0, 1.0, 6.0, 60.0]), seed=st.integers(0, 999))
asked = st.tuples(
    st.one_of(records, records, labels, free), texts, st.integers(-1, 2), st.integers(0, 40), drawn
)

# Drawing nested schemas is slow on a loaded machine; nothing here depends on time.
PATIENT = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def shop(tiny_base_folder: Path) -> Shop:
    return Shop(tiny_base_folder)


def check(spec: ConstraintSpec, job: str, limit: int, got: Completion) -> None:
    """The answer is one that the spec allows, and nothing says otherwise."""
    assert got.error is None
    assert got.fault is None
    assert 0 <= got.confidence <= 1
    match spec:
        case LabelSpec(every):
            assert got.value in every
            assert got.text == got.value
        case SchemaSpec(schema):
            checker(dict(schema), job).validate(got.value)
            assert json.loads(got.text) == got.value
            json.dumps(got.value, allow_nan=False)
        case TextSpec(stop=stops):
            assert isinstance(got.value, str)
            assert not any(stop in got.value for stop in stops)
            assert got.tokens <= max(limit, 1)


@PATIENT
@given(st.lists(asked, min_size=1, max_size=6), st.integers(1, 4))
def test_every_answer_in_a_mixed_batch_is_valid(
    shop: Shop, jobs: list[tuple[ConstraintSpec, str, int, int, TextSpec]], rows: int
) -> None:
    requests = [shop.request(str(i), *job) for i, job in enumerate(jobs)]
    for (spec, job, _, limit, _), got in zip(jobs, shop.run(requests, rows), strict=True):
        check(spec, job, limit, got)


SHOPPING: dict[str, Any] = {
    "type": "object",
    "properties": {
        "who": {"type": "string", "x-verbatim": True},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}, "minItems": 1, "maxItems": 3},
        "paid": {"anyOf": [{"type": "boolean"}, {"enum": ["later", None]}]},
    },
    "required": ["who", "items", "paid"],
    "$defs": {
        "item": {
            "type": "object",
            "properties": {
                "sku": {"type": "string", "pattern": "^[A-Z]{2}-\\d+$"},
                "price": {"type": "number", "minimum": 0.5, "maximum": 99.5},
            },
            "required": ["sku", "price"],
        }
    },
}
SPOKEN = 'Zoë said "two 🎉 for שלום"'


def test_a_random_model_gives_many_answers_and_each_is_valid(shop: Shop) -> None:
    """What the property rests on: answers do vary, with the place where they are cut off too."""
    limits = [*range(0, 40, 8), *[90] * 5]
    hot = [TextSpec(temperature=8.0, seed=seed) for seed in range(len(limits))]
    specs: list[ConstraintSpec] = [SchemaSpec(SHOPPING), LabelSpec(SCRIPTS), TextSpec(temperature=2.0)]
    jobs = [(spec, limit, each) for limit, each in zip(limits, hot, strict=True) for spec in specs]
    requests = [
        shop.request(str(i), spec, SPOKEN, i % 3, limit, sampling)
        for i, (spec, limit, sampling) in enumerate(jobs)
    ]
    completions = shop.run(requests, 7)
    for (spec, limit, _), got in zip(jobs, completions, strict=True):
        check(spec, SPOKEN, limit, got)
    records, words = completions[::3], completions[1::3]
    assert len({got.text for got in records}) >= 6
    assert {got.truncated for got in records} == {True, False}
    assert len({got.value for got in words}) >= 5


def test_a_thousand_labels_beside_other_work(shop: Shop) -> None:
    stems = [*PREFIXED[:5], *SCRIPTS[:15]]
    many = LabelSpec(tuple(f"{stem}{i}" for i in range(50) for stem in stems))
    assert len(many.labels) == 1000
    jobs: list[tuple[ConstraintSpec, str, int, int, TextSpec]] = [
        (many, f"job {i}", i % 4 - 1, (0, 1, 2, 24)[i % 4], TextSpec(temperature=20.0, seed=i))
        for i in range(24)
    ]
    jobs += [(SchemaSpec(SHOPPING), SPOKEN, 1, 30, TextSpec()), (LabelSpec(TEXTUAL), "x", 0, 9, TextSpec())]
    completions = shop.run([shop.request(str(i), *job) for i, job in enumerate(jobs)], 6)
    for (spec, job, _, limit, _), got in zip(jobs, completions, strict=True):
        check(spec, job, limit, got)
    assert len({got.value for got in completions[:24]}) >= 10


@PATIENT
@given(st.sampled_from(PIECES), st.integers(1, 60), st.integers(0, 30), st.integers(0, 99))
def test_copied_values_are_in_the_job_letter_by_letter(
    shop: Shop, piece: str, times: int, limit: int, seed: int
) -> None:
    job = (piece.replace("▁", "_") + " ") * times
    schema = {"type": "array", "items": {"type": "string", "x-verbatim": True}, "minItems": 1, "maxItems": 4}
    request = shop.request("x", SchemaSpec(schema), job, 0, limit, TextSpec(temperature=30.0, seed=seed))
    (got,) = shop.run([request])
    check(SchemaSpec(schema), job, limit, got)


def test_a_grammar_at_its_limits_fails_its_own_job_only(shop: Shop) -> None:
    vocabulary = Vocabulary.of(shop.base.tokenizer)
    # A pattern of few characters and very many states, as no schema that is checked can hold.
    grammar = 'start: T\nT: /"(a|b)*a(a|b){18}"/ & /"(a|b)*b(a|b){17}"/'
    mates = [(LabelSpec(PREFIXED), f"mate {i}", i % 3) for i in range(3)]
    alone = [got.value for got in shop.run([shop.request(str(i), *mate) for i, mate in enumerate(mates)])]
    for limits in (LLParserLimits(step_lexer_fuel=2000), LLParserLimits(max_lexer_states=60)):
        matcher = LLMatcher(vocabulary.grammar, grammar, log_level=0, limits=limits)
        assert not matcher.is_error()
        endless = SchemaConstraint(vocabulary, matcher, Traits(False, False, ()))
        *requests, bad = [shop.request(str(i), *mate) for i, mate in enumerate([*mates, mates[0]])]
        *fine, failed = shop.run([*requests, replace(bad, constraint=endless, max_output_tokens=400)])
        assert [got.value for got in fine] == alone
        assert (failed.value, failed.error) == (None, None)
        assert "cannot go on in its grammar" in str(failed.fault)


def test_a_job_too_long_to_copy_from_is_told_so(shop: Shop) -> None:
    spec = SchemaSpec({"type": "string", "x-verbatim": True})
    shop.compiler.start(spec, "short")
    with pytest.raises(JobError, match="too long to copy"):
        shop.compiler.start(spec, " ".join(f"{i:x}{i * i}" for i in range(9_000)))
