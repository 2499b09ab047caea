"""JSON constraints: always valid, along the canonical tokens, closed in time."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from json_strategies import checker, documents, schemas, texts, values
from transformers import PreTrainedTokenizerFast

from fleet.engine.constraint import Constraint, ConstraintCompiler
from fleet.engine.schema_grammar import compact
from fleet.engine.specs import SchemaSpec
from fleet.engine.vocabulary import Vocabulary
from fleet.schema_subset import unsupported_features
from fleet.schema_values import resolved

JOB = 'Maria Gonzalez and "Bob" met\nat C:\\temp 🎉 on 12 May'
ORDER = {
    "type": "object",
    "properties": {
        "people": {"type": "array", "items": {"type": "string", "x-verbatim": True}},
        "size": {"enum": ["small", "large", None]},
        "note": {"type": "string", "maxLength": 40},
        "count": {"type": "integer", "minimum": 1, "maximum": 120},
        "date": {"type": ["string", "null"], "pattern": r"^\d{4}-\d{2}-\d{2}$"},
    },
    "required": ["people", "size", "note", "count"],
}


@pytest.fixture(scope="module")
def tokenizer(tiny_base_folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(tiny_base_folder)


@pytest.fixture(scope="module")
def compiler(tokenizer: PreTrainedTokenizerFast) -> ConstraintCompiler:
    return ConstraintCompiler(tokenizer)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
    return Vocabulary.of(tokenizer)


def options(constraint: Constraint) -> list[int]:
    ids = constraint.allowed()
    if ids is None:
        mask = constraint.mask()
        assert mask is not None
        ids = mask.nonzero().flatten()
    return ids.tolist()


def follow(constraint: Constraint, target: list[int]) -> tuple[int, int]:
    """Take the target's tokens wherever there is a choice; (forced, chosen) counts."""
    place = chosen = 0
    while not constraint.done:
        forced = constraint.forced()
        assert forced == target[place : place + len(forced)]
        place += len(forced)
        if constraint.done:
            break
        assert target[place] in options(constraint)
        constraint.advance(target[place])
        place, chosen = place + 1, chosen + 1
    assert place == len(target)
    return place - chosen, chosen


def answer_at_random(constraint: Constraint, chance: random.Random, limit: int) -> list[int]:
    output: list[int] = []
    while not constraint.done:
        output += constraint.forced()
        if constraint.done:
            break
        if len(output) >= limit:
            output += constraint.close()
            break
        token = chance.choice(options(constraint))
        constraint.advance(token)
        output.append(token)
    return output


# Drawing nested schemas is slow on a loaded machine; nothing here depends on time.
PATIENT = settings(deadline=None, max_examples=120, suppress_health_check=list(HealthCheck))


@PATIENT
@given(schema=documents(schemas), job=texts, data=st.data())
def test_follows_the_canonical_tokens_of_every_valid_answer(
    compiler: ConstraintCompiler,
    vocabulary: Vocabulary,
    schema: dict[str, Any],
    job: str,
    data: st.DataObject,
) -> None:
    assume(not unsupported_features(schema))
    value = data.draw(values(resolved(schema), job))
    target = [*vocabulary.encode(compact(value)), vocabulary.eos]
    constraint = compiler.start(SchemaSpec(schema), job)
    follow(constraint, target)
    assert constraint.text() == compact(value)


@PATIENT
@given(schema=documents(), job=texts, seed=st.integers(0, 2**32), limit=st.integers(0, 40))
def test_whatever_the_model_wants_the_answer_is_valid(
    compiler: ConstraintCompiler,
    vocabulary: Vocabulary,
    schema: dict[str, Any],
    job: str,
    seed: int,
    limit: int,
) -> None:
    assume(not unsupported_features(schema))
    constraint = compiler.start(SchemaSpec(schema), job)
    output = answer_at_random(constraint, random.Random(seed), limit)
    assert constraint.done
    assert output[-1] == vocabulary.eos
    assert vocabulary.spell(output).decode() == constraint.text()
    checker(schema, job).validate(constraint.value())


def test_forces_what_leaves_no_choice(compiler: ConstraintCompiler, vocabulary: Vocabulary) -> None:
    value = {"people": ["Maria Gonzalez", '"Bob"'], "size": "large", "note": "née\n", "count": 17}
    target = [*vocabulary.encode(compact(value)), vocabulary.eos]
    forced, _ = follow(compiler.start(SchemaSpec(ORDER), JOB), target)
    assert forced >= 5
    constant = {"type": "object", "properties": {"ok": {"const": "yes"}}, "required": ["ok"]}
    constraint = compiler.start(SchemaSpec(constant))
    assert constraint.forced() == [*vocabulary.encode('{"ok":"yes"}'), vocabulary.eos]
    assert constraint.done


def test_a_free_string_is_masked_rather_than_gathered(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    constraint = compiler.start(SchemaSpec({"type": "string"}))
    constraint.forced()
    constraint.advance(vocabulary.encode('"The')[0])
    constraint.forced()
    assert constraint.allowed() is None
    mask = constraint.mask()
    assert mask is not None
    assert mask.shape == (vocabulary.size,)
    assert not any(mask[index] for index in vocabulary.special)


def test_verbatim_values_never_end_within_an_escape(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    constraint = compiler.start(SchemaSpec({"type": "string", "x-verbatim": True}), 'a"\\b')
    constraint.forced()
    for byte in b'"\\':
        token = int(vocabulary.byte_tokens[byte])
        if token in options(constraint):
            constraint.advance(token)
    constraint.close()
    assert constraint.value() in ('"', "\\", "a", "b")


def test_refuses_what_breaks_the_schema(compiler: ConstraintCompiler, vocabulary: Vocabulary) -> None:
    constraint = compiler.start(SchemaSpec({"type": "boolean"}))
    with pytest.raises(ValueError, match="breaks the schema"):
        constraint.advance(vocabulary.encode("maybe")[0])
    assert json.loads(vocabulary.spell(constraint.close())) in (True, False)
    with pytest.raises(ValueError, match="uniqueItems"):
        compiler.start(SchemaSpec({"type": "array", "items": {"type": "null"}, "uniqueItems": True}))


def test_closing_is_shortest(compiler: ConstraintCompiler) -> None:
    constraint = compiler.start(SchemaSpec(ORDER), JOB)
    constraint.close()
    assert constraint.text() == '{"people":[],"size":null,"note":"","count":1}'


@pytest.mark.parametrize(
    "pattern",
    [
        "b+c", "abcd", r"^\d{4}-\d{2}$", "x{30}", "(foo|bar)+!", r"[A-Z]{2}\d\d", "é",
        r"[\w.-]+@[\w-]+\.\w+", r"^[\w.]+@[\w.]+\.[a-z]{2,}$", r"^[\w ]+ - [\w ]+$", "^(?:ab)*$", "^a|b$",
        "(^|x)a", r"^(\w+@\w+|\+?\d{8,12}|n/a)$", "^(cat|dog|🎉)s?(, (cat|dog|🎉)s?)*$", '^[^"a-z]{40}$',
    ],
)  # fmt: skip
def test_patterns_can_be_closed_wherever_they_are_cut_off(compiler: ConstraintCompiler, pattern: str) -> None:
    spec = SchemaSpec({"type": ["string", "null"], "pattern": pattern})
    for limit in range(12):
        constraint = compiler.start(spec)
        answer_at_random(constraint, random.Random(limit), limit)
        assert constraint.value() is None or re.search(pattern, constraint.value())


def test_a_string_that_is_too_short_is_filled_up(compiler: ConstraintCompiler) -> None:
    constraint = compiler.start(SchemaSpec({"type": "string", "minLength": 700, "maxLength": 701}))
    answer_at_random(constraint, random.Random(0), 6)
    assert len(constraint.value()) == 700


def test_long_jobs_and_large_enums_compile(compiler: ConstraintCompiler) -> None:
    job = "".join(f"word{i} " for i in range(1200))
    verbatim = compiler.start(SchemaSpec({"type": "string", "x-verbatim": True}), job)
    answer_at_random(verbatim, random.Random(0), 20)
    assert verbatim.value() in job
    codes = {"enum": [f"code-{i:04d}" for i in range(1000)]}
    constraint = compiler.start(SchemaSpec(codes))
    answer_at_random(constraint, random.Random(1), 3)
    assert constraint.value() in codes["enum"]
