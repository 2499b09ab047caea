from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.engine.base import load_base
from fleet.engine.prompt import Renderer, render_job, render_target, seal
from fleet.engine.specs import Example, LabelSpec, PromptSpec, SchemaSpec, TaskSpec, TextSpec
from fleet.errors import DataError, JobError

LABELS = LabelSpec(("positive", "negative"))
SENTIMENT = TaskSpec("sentiment", PromptSpec(suffix="\n\nSentiment:"), LABELS, "macro_f1")
ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
        "when": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"day": {}, "hour": {}}}]},
    },
    "$defs": {"item": {"type": "object", "properties": {"sku": {}, "count": {"type": "integer"}}}},
}


@pytest.fixture(scope="module")
def renderer(tiny_base_folder: Path) -> Renderer:
    return Renderer(load_base(tiny_base_folder).tokenizer)


def test_one_field_is_its_text_alone_and_several_are_lines() -> None:
    assert render_job(PromptSpec(suffix=":"), {"text": " hi\n", "other": "x"}) == " hi\n"
    both = PromptSpec(fields=("title", "body"), suffix=":")
    assert render_job(both, {"body": "b", "title": "t"}) == "title: t\nbody: b"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"body": "x"}, "no field 'text' \\(got 'body'\\)"),
        ({"text": 3}, "must be text \\(got int\\)"),
        ({"text": " \n"}, "empty"),
        ({"text": "a\ud800"}, "surrogate"),
    ],
)
def test_a_job_that_cannot_be_rendered_says_why(fields: Any, says: str) -> None:
    with pytest.raises(JobError, match=says):
        render_job(PromptSpec(suffix=":"), fields)


def test_targets_of_labels_and_texts_follow_a_space() -> None:
    assert render_target(LABELS, "negative") == " negative"
    assert render_target(TextSpec(), "\nOnce upon a time. ") == " Once upon a time."


def test_a_record_is_compact_json_in_the_order_of_its_schema() -> None:
    output = {"when": {"hour": 3, "day": "ü"}, "items": [{"count": 2.0, "sku": "a"}], "extra": 1, "name": "x"}
    assert render_target(SchemaSpec(ORDER), output) == (
        '{"name":"x","items":[{"sku":"a","count":2}],"when":{"day":"ü","hour":3},"extra":1}'
    )


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["name", "items", "when", "z"]), inner)
        ),
        max_leaves=12,
    )
)
def test_ordering_by_a_schema_never_changes_the_value(value: Any) -> None:
    assert json.loads(render_target(SchemaSpec(ORDER), value)) == value


@pytest.mark.parametrize(
    ("constraint", "output"),
    [(LABELS, "neutral"), (LABELS, None), (TextSpec(), " "), (TextSpec(), 3), (SchemaSpec({}), float("nan"))],
)
def test_an_output_that_no_answer_could_be_is_refused(constraint: Any, output: Any) -> None:
    with pytest.raises(DataError, match="must be"):
        render_target(constraint, output)


def test_a_row_is_job_suffix_and_supervised_target(renderer: Renderer) -> None:
    row = renderer.row(SENTIMENT, Example({"text": "The kettle works well"}, "positive"))
    job = renderer.job_ids("The kettle works well")
    assert row.ids[: row.job_len] == job
    assert row.ids[row.job_len : row.supervised_from] == renderer.suffix_ids("\n\nSentiment:")
    assert row.ids[row.supervised_from :] == [*renderer.text_ids(" positive"), renderer.eos]
    assert job.count(renderer.bos) == 1


def test_a_row_longer_than_its_task_takes_is_refused(renderer: Renderer) -> None:
    with pytest.raises(JobError, match=r"takes 4: shorten"):
        renderer.row(replace(SENTIMENT, max_input_tokens=4), Example({"text": "much too long"}, "positive"))


SPECIAL = st.sampled_from(["<eos>", "<bos>", "<pad>", "<unk>", "<start_of_turn>", "<", "<<eos>", "<unused7>"])


@given(
    st.lists(SPECIAL | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")), max_size=8)
)
def test_text_survives_and_never_becomes_a_control_token(
    renderer: Renderer, tiny_base_folder: Path, parts: list[str]
) -> None:
    text = "".join(parts)
    ids = renderer.job_ids(text)
    assert ids[0] == renderer.bos
    assert all(token > 5 for token in ids[1:])  # the tiny base's control tokens are 0 to 5
    assert renderer._backend.decode(ids[1:], skip_special_tokens=False) == text


def test_padding_set_on_the_tokenizer_does_not_reach_the_ids(tiny_base_folder: Path) -> None:
    tokenizer = load_base(tiny_base_folder).tokenizer
    renderer = Renderer.of(tokenizer)
    ids = renderer.job_ids("a much longer text")
    tokenizer(["a", "a much longer text"], padding=True, truncation=True, max_length=4)
    assert Renderer.of(tokenizer) is renderer
    assert renderer.job_ids("a much longer text") == ids
    assert 0 not in renderer.job_ids("a")
    tokenizer(["a", "a much longer text"], padding=True, truncation=True, max_length=4)
    assert Renderer(tokenizer).digest == renderer.digest


def test_a_tokenizer_has_one_renderer_for_as_long_as_it_lives(tiny_base_folder: Path) -> None:
    first, second = load_base(tiny_base_folder).tokenizer, load_base(tiny_base_folder).tokenizer
    assert Renderer.of(first) is Renderer.of(first)
    assert Renderer.of(first) is not Renderer.of(second)
    gone = weakref.ref(Renderer.of(first))
    del first
    gc.collect()
    assert gone() is None


def test_the_seal_changes_with_all_that_changes_a_prompt_and_nothing_else(
    renderer: Renderer, tiny_base_folder: Path
) -> None:
    sealed = seal(renderer, SENTIMENT)
    assert sealed == seal(Renderer(load_base(tiny_base_folder).tokenizer), replace(SENTIMENT, name="other"))
    swapped = {**ORDER, "properties": dict(reversed(ORDER["properties"].items()))}
    others = [
        replace(SENTIMENT, prompt=PromptSpec(suffix="\n\nMood:")),
        replace(SENTIMENT, prompt=PromptSpec(fields=("review",), suffix="\n\nSentiment:")),
        replace(SENTIMENT, constraint=LabelSpec(("negative", "positive"))),
        replace(SENTIMENT, constraint=SchemaSpec(ORDER)),
        replace(SENTIMENT, constraint=SchemaSpec(swapped)),
        replace(SENTIMENT, constraint=TextSpec()),
    ]
    assert len({sealed, *(seal(renderer, other) for other in others)}) == len(others) + 1
