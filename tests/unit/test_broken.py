"""Every way to break a task, kept in tests/data/broken, and what the check must answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.data.check import check_project
from fleet.errors import Fault
from fleet.project import Project

BROKEN = Path(__file__).parents[1] / "data" / "broken"

# Folder of tests/data/broken/tasks: (rule, file, line, field, value), and the severity if it is no error.
EXPECTED: dict[str, list[tuple[object, ...]]] = {
    "answer-too-long": [("answer-too-long", "train.jsonl", 1, "output", "12", "warning")],
    "bad-hub-address": [("bad-hub-address", "task.yaml", 5, "data.eval", "hf://org/name")],
    "bad-label": [
        ("bad-label", "task.yaml", 4, "labels.1", "'early '"),
        ("wrong-type", "task.yaml", 4, "labels.2", "True"),
    ],
    "bad-layers": [("bad-layers", "task.yaml", 7, "adapter.layers", "[18, 6]")],
    "bad-name": [("bad-name", "task.yaml", 6, "input.1", "'full name'")],
    "bad-share": [("out-of-range", "task.yaml", 5, "data.eval", "0.9")],
    "below-trunk": [("below-trunk", "task.yaml", 7, "adapter.layers", "2", "warning")],
    "blank-text": [("blank-text", "task.yaml", 2, "description", "'  '")],
    "contradicting-rows": [("contradicting-rows", "train.jsonl", 7, "", "", "warning")],
    "csv-cells": [("unreadable-row", "train.csv", 4, "", "")],
    "damaged-gzip": [("unreadable-file", "train.jsonl.gz", None, "", "")],
    "damaged-parquet": [("unreadable-file", "train.parquet", None, "", "")],
    "duplicate-column": [("duplicate-column", "train.csv", 1, "", "text")],
    "duplicate-input": [("duplicate-input", "task.yaml", 6, "input.1", "'text'")],
    "duplicate-key": [("duplicate-key", "task.yaml", 6, "kind", "'kind'")],
    "duplicate-label": [("duplicate-label", "task.yaml", 7, "labels.2", "'late'")],
    "duplicate-row": [("duplicate-row", "train.jsonl", 7, "", "", "warning")],
    "empty-input": [("empty-input", "eval.jsonl", 2, "text", "")],
    "empty-output": [("empty-output", "train.jsonl", 2, "output", "''")],
    "empty-split": [("empty-split", "task.yaml", 5, "data.eval", "")],
    "empty-verbatim": [("empty-verbatim", "train.jsonl", 3, "record.item", "''")],
    "eval-row-in-train": [("eval-row-in-train", "eval.jsonl", 3, "", "")],
    "floor-above-one": [("out-of-range", "task.yaml", 7, "evaluation.floor", "80.0")],
    "key-not-text": [("key-not-text", "task.yaml", 6, "", "'7'")],
    "label-imbalance": [("label-imbalance", "task.yaml", 5, "data.train", "early", "warning")],
    "label-without-rows": [
        ("label-without-rows", "task.yaml", 5, "data.train", "lost"),
        ("label-without-rows", "task.yaml", 5, "data.eval", "lost", "warning"),
    ],
    "lax-budget": [("lax-budget", "task.yaml", 6, "routing.max_misroute", "0.2", "warning")],
    "lora-only": [("lora-only", "task.yaml", 8, "adapter.rank", "16")],
    "metric-not-for-kind": [("metric-not-for-kind", "task.yaml", 7, "evaluation.metric", "'perplexity'")],
    "missing-column": [("missing-column", "train.jsonl", 4, "label", "")],
    "missing-field": [("missing-field", "task.yaml", 1, "description", "")],
    "missing-labels": [("missing-labels", "task.yaml", 1, "labels", "")],
    "missing-schema": [("missing-schema", "task.yaml", 1, "schema", "")],
    "near-duplicate-row": [("near-duplicate-row", "train.jsonl", 8, "", "", "warning")],
    "near-row-in-train": [("near-row-in-train", "eval.jsonl", 3, "", "", "warning")],
    "no-manifest": [("no-manifest", "", None, "", "")],
    "no-such-file": [("no-such-file", "task.yaml", 5, "data.eval", "held-*.jsonl")],
    "not-a-choice": [("not-a-choice", "task.yaml", 3, "kind", "'sorting'")],
    "not-a-mapping": [("wrong-type", "task.yaml", 1, "", "[{'task': 'not-a-mapping'}]")],
    "not-utf8": [("not-utf8", "task.yaml", 6, "", "byte 0xe9")],
    "not-verbatim": [("not-verbatim", "train.jsonl", 2, "record.item", "'ticket to Rome'")],
    "null-input": [("wrong-type", "train.jsonl", 1, "text", "null")],
    "one-label": [("wrong-length", "task.yaml", 4, "labels", "['late']")],
    "other-trains-it": [("eval-row-in-other-train", "eval.jsonl", 3, "", "", "warning")],
    "out-of-range": [
        ("out-of-range", "task.yaml", 7, "training.epochs", "0"),
        ("out-of-range", "task.yaml", 8, "training.learning_rate", "inf"),
    ],
    "path-outside-project": [
        ("path-outside-project", "task.yaml", 5, "data.train", "../../../../pyproject.toml")
    ],
    "record-not-object": [("wrong-type", "train.jsonl", 1, "record", "['parcel']")],
    "row-key-twice": [
        ("unreadable-row", "train.jsonl", 2, "", '{"text": "a", "text": "b", "label": "late"}')
    ],
    "row-not-object": [("unreadable-row", "eval.jsonl", 3, "", '["late"]')],
    "row-too-long": [("row-too-long", "train.jsonl", 6, "text", "32", "warning")],
    "sampling-not-for-kind": [("sampling-not-for-kind", "task.yaml", 7, "serving.temperature", "0.7")],
    "schema-not-object": [("schema-not-object", "task.yaml", 4, "schema", "'array'")],
    "schema-violation": [
        ("schema-violation", "train.jsonl", 1, "record.count", "0"),
        ("schema-violation", "eval.jsonl", 2, "record", "{'itme': 'flowers'}"),
        ("schema-violation", "eval.jsonl", 2, "record", "{'itme': 'flowers'}"),
    ],
    "several-at-once": [
        ("duplicate-label", "task.yaml", 4, "labels.1", "'late'"),
        ("unknown-column", "task.yaml", 5, "data.columns.outptu", "'outptu'"),
        ("out-of-range", "task.yaml", 6, "training.patience", "0"),
        ("unknown-field", "task.yaml", 7, "serving.tempreature", "1"),
    ],
    "stray-schema": [
        (
            "stray-schema",
            "task.yaml",
            6,
            "schema",
            "{'type': 'object', 'properties': {'a': {'type': 'string'}}}",
        )
    ],
    "task-not-folder": [("task-not-folder", "task.yaml", 1, "task", "'other-name'")],
    "unknown-column": [("unknown-column", "task.yaml", 5, "data.columns.subject", "'subject'")],
    "unknown-field": [("unknown-field", "task.yaml", 6, "sufix", "'x'")],
    "unknown-format": [("unknown-format", "rows.txt", None, "", "rows.txt")],
    "unknown-label": [
        ("unknown-label", "train.jsonl", 5, "label", "'Late'"),
        ("unknown-label", "eval.jsonl", 3, "label", "'never'"),
    ],
    "unreadable-row": [("unreadable-row", "train.jsonl", 3, "", '{"text": "half a row')],
    "unsupported-schema": [
        ("unsupported-schema", "task.yaml", 8, "schema.properties.count.multipleOf", ""),
        ("unsupported-schema", "task.yaml", 9, "schema.required", ""),
    ],
    "wrong-type": [("wrong-type", "task.yaml", 7, "adapter.rank", "'16'")],
    "yaml-merge": [("yaml-merge", "task.yaml", 5, "data", "'<<'")],
    "yaml-syntax": [("yaml-syntax", "task.yaml", 7, "", "")],
    "yaml-tag": [
        ("yaml-tag", "task.yaml", 6, "training", "'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("wrong-type", "task.yaml", 6, "training", "null"),
    ],
    "yaml-too-large": [("yaml-too-large", "task.yaml", 6, "", "")],
}


@pytest.fixture(scope="module")
def faults() -> list[Fault]:
    return check_project(Project.find(BROKEN))


@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_the_check_names_rule_file_line_field_and_value(case: str, faults: list[Fault]) -> None:
    found = []
    for fault in faults:
        _, _, place = fault.file.partition("tasks/")
        task, _, file = place.partition("/")
        # So few rows can never show what the policy asks for; test_lint.py covers that rule.
        if task == case and fault.rule != "eval-too-small":
            mark = (fault.severity,) if fault.severity != "error" else ()
            found.append((fault.rule, file, fault.line, fault.field, fault.value, *mark))
            assert fault.message
    assert sorted(found, key=str) == sorted(EXPECTED[case], key=str)


def test_every_broken_task_is_expected_to_be_broken(faults: list[Fault]) -> None:
    folders = {path.name for path in (BROKEN / "tasks").iterdir()}
    assert folders == set(EXPECTED) | {"is-trained-elsewhere"}
    assert len({rule for found in EXPECTED.values() for rule, *_ in found}) >= 25


def test_no_fault_lies_outside_the_tasks(faults: list[Fault]) -> None:
    assert all(fault.file.startswith("tasks/") for fault in faults)


def test_data_outside_the_project_is_refused_even_through_a_link(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"text": "a", "label": "x"}\n')
    task = tmp_path / "fleet" / "tasks" / "linked"
    task.mkdir(parents=True)
    (tmp_path / "fleet" / "fleet.yaml").write_text("name: linked\n")
    (task / "task.yaml").write_text(
        "task: linked\ndescription: d\nkind: classification\nlabels: [x, y]\n"
        "data: {train: train.jsonl, eval: 0.5, columns: {output: label}}\n"
    )
    (task / "train.jsonl").symlink_to(secret)
    found = check_project(Project.find(tmp_path / "fleet"))
    assert [(f.rule, f.line, f.field) for f in found if f.severity == "error"] == [
        ("path-outside-project", 5, "data.train")
    ]
