"""Manifests become what the engine is told, field by field."""

from __future__ import annotations

from typing import Any

from fleet.data.rows import Row
from fleet.engine.specs import FullSpec, LabelSpec, SchemaSpec, TaskSpec, TextSpec
from fleet.manifest import Manifest
from fleet.recipe import examples, task_spec


def spec(**changes: Any) -> TaskSpec:
    whole = {"task": "order-late", "description": "d", "data": {"train": "train.jsonl", "eval": "eval.jsonl"}}
    return task_spec(Manifest.model_validate({**whole, **changes}))


def test_each_kind_has_its_constraint() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert spec(kind="classification", labels=["b", "a"]).constraint == LabelSpec(("b", "a"))
    assert spec(kind="extraction", schema=schema).constraint == SchemaSpec(schema)
    sampled = spec(kind="generation", serving={"temperature": 0.5, "top_p": 0.9}, training={"seed": 3})
    assert sampled.constraint == TextSpec(0.5, 0.9, 3)


def test_untouched_fields_have_the_engine_s_own_defaults() -> None:
    made = spec(kind="classification", labels=["a", "b"])
    plain = TaskSpec(made.name, made.prompt, made.constraint, made.metric)
    assert made == plain
    assert made.prompt.suffix == "\n\nOrder late:"


def test_full_is_its_layers_and_a_smaller_step() -> None:
    made = spec(kind="classification", labels=["a", "b"], adapter={"method": "full", "layers": [9, 18]})
    assert made.adapter == FullSpec((9, 18))
    assert made.train.learning_rate == 5e-5


def test_rows_become_examples_in_order() -> None:
    rows = [Row({"text": "a"}, "x", "f", 1), Row({"text": "b"}, "y", "f", 2)]
    assert [(example.fields["text"], example.output) for example in examples(rows)] == [
        ("a", "x"),
        ("b", "y"),
    ]
