"""A manifest fills in its defaults, knows what training depends on, and has an up-to-date JSON schema."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from fleet.config import FleetConfig, load_config
from fleet.errors import ManifestError, ProjectError
from fleet.manifest import (
    Manifest,
    load_manifest,
    manifest_schema,
    schema_is_fresh,
    write_schema,
)

ROOT = Path(__file__).parents[2]

MINIMAL = """task: order-late
description: Whether an order came late.
kind: classification
labels: [no, yes]
data: {train: train.jsonl, eval: 0.2}
"""


def written(root: Path, text: str = MINIMAL, name: str = "order-late") -> Path:
    folder = root / "tasks" / name
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text(text)
    return folder / "task.yaml"


def made(**changes: Any) -> Manifest:
    whole = {
        "task": "t-1",
        "description": "d",
        "kind": "classification",
        "labels": ["a", "b"],
        "data": {"train": "train.jsonl", "eval": "eval.jsonl"},
    }
    return Manifest.model_validate({**whole, **changes})


def test_defaults_are_derived_from_the_task_and_its_kind(tmp_path: Path) -> None:
    manifest = load_manifest(written(tmp_path), tmp_path)
    assert manifest.suffix == "\n\nOrder late:"
    assert manifest.metric == manifest.evaluation.metric == "macro_f1"
    assert manifest.input == ["text"]
    assert manifest.labels == ["no", "yes"]
    assert manifest.data.train == ["train.jsonl"]
    assert manifest.data.eval == 0.2
    assert manifest.folder == "tasks/order-late"
    assert manifest.line_of("data.eval") == 5
    assert made(kind="generation", labels=None).metric == "perplexity"


def test_a_snapshot_is_json_and_reads_back_to_the_same_digest() -> None:
    manifest = made(adapter={"rank": 8, "layers": [9, 18]}, serving={"max_output_tokens": 9})
    again = Manifest.model_validate(json.loads(json.dumps(manifest.snapshot())))
    assert again.digest == manifest.digest
    assert again.snapshot() == manifest.snapshot()


def test_full_has_its_own_learning_rate_and_neither_rank_nor_alpha() -> None:
    lora, full = made(), made(adapter={"method": "full", "layers": [9, 18]})
    assert (lora.adapter.rank, lora.adapter.alpha, lora.learning_rate) == (16, 32.0, 3e-4)
    assert (full.adapter.rank, full.adapter.alpha, full.learning_rate) == (None, None, 5e-5)
    again = Manifest.model_validate(json.loads(json.dumps(full.snapshot())))
    assert (again.digest, again.learning_rate) == (full.digest, 5e-5)
    assert made(adapter={"method": "full"}, training={"learning_rate": 1e-3}).learning_rate == 1e-3
    for name in ("rank", "alpha"):
        with pytest.raises(ValidationError, match=f"adapter.{name}: belongs to method lora"):
            made(adapter={"method": "full", name: 8})


def test_a_manifest_travels_between_processes(tmp_path: Path) -> None:
    manifest = load_manifest(written(tmp_path), tmp_path)
    again = pickle.loads(pickle.dumps(manifest))
    assert (again.digest, again.folder, again.line_of("kind")) == (manifest.digest, manifest.folder, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"description": "other"},
        {"routing": {"examples": ["is it late?"]}},
        {"evaluation": {"floor": 0.5}},
        {"evaluation": {"metric": "macro_f1"}},
        {"data": {"train": "other.jsonl", "eval": 0.1}},
        {"suffix": "\n\nT 1:"},
        {"adapter": {"rank": 16}},
    ],
)
def test_the_digest_stays_when_training_would(change: dict[str, Any]) -> None:
    assert made(**change).digest == made().digest


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["b", "a"]},
        {"suffix": "\n\nOther:"},
        {"training": {"seed": 1}},
        {"adapter": {"alpha": 16.0}},
        {"evaluation": {"metric": "accuracy"}},
        {"serving": {"max_output_tokens": 8}},
        {"input": ["text", "title"]},
    ],
)
def test_the_digest_changes_when_training_would(change: dict[str, Any]) -> None:
    assert made(**change).digest != made().digest


def test_the_order_of_a_schema_s_properties_counts() -> None:
    def digest(*names: str) -> str:
        schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
        return made(kind="extraction", labels=None, schema=schema).digest

    assert digest("a", "b") != digest("b", "a")


def test_rules_between_fields_hold_without_a_file_too() -> None:
    with pytest.raises(ValidationError, match="classification needs labels"):
        made(labels=None)


@given(
    st.dictionaries(
        st.sampled_from([*Manifest.model_fields, "schema"]), st.none() | st.text() | st.integers()
    )
)
def test_odd_values_are_refused_as_validation_errors_only(change: dict[str, Any]) -> None:
    try:
        manifest = made(**change)
    except ValidationError:
        return
    assert manifest.digest


def test_a_file_outside_the_project_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="outside the project"):
        load_manifest(written(tmp_path / "a"), tmp_path / "b")


def test_faults_of_fleet_yaml_carry_their_line(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("name: mine\ntraining:\n  worker: 2\n")
    with pytest.raises(ManifestError, match=r"fleet.yaml:3: training.worker: .* did you mean workers\?"):
        load_config(path)
    path.write_text("name: mine\n")
    assert load_config(path).model_dump() == FleetConfig(name="mine").model_dump()


def test_the_json_schema_accepts_what_loads_and_refuses_unknown_fields(tmp_path: Path) -> None:
    schema = manifest_schema()
    Draft202012Validator.check_schema(schema)
    written_down = made().snapshot()
    assert Draft202012Validator(schema).is_valid(written_down)
    assert not Draft202012Validator(schema).is_valid({**written_down, "sufix": "x"})
    path = tmp_path / "task.schema.json"
    assert not schema_is_fresh(path)
    write_schema(path)
    assert schema_is_fresh(path)


def test_every_field_is_documented() -> None:
    schema = manifest_schema()
    for model in (schema, *schema["$defs"].values(), FleetConfig.model_json_schema()):
        for field in model["properties"].values():
            # A section's field is documented by the section it refers to.
            assert field.get("description") or field.get("$ref")


def test_this_project_s_schema_is_fresh() -> None:
    assert schema_is_fresh(ROOT / "tasks" / "task.schema.json")
