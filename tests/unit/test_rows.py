"""Rows come out of every format the same, in order, with their place; broken files never raise."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.data.hub import HubAddress, parse_hub
from fleet.data.record import Limits
from fleet.data.rows import (
    Row,
    TaskRows,
    collect_rows,
    collect_task_rows,
    condense,
    load_task_rows,
    read_rows,
)
from fleet.data.sources import parse_json
from fleet.errors import DataError, Fault
from fleet.manifest import Manifest

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
in_one_folder = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def task(held: str | float = "eval.jsonl", **changes: Any) -> Manifest:
    whole: dict[str, Any] = {
        "task": "tone",
        "description": "d",
        "kind": "classification",
        "labels": ["good", "bad"],
        "data": {"train": "train.jsonl", "eval": held, "columns": {"output": "label"}},
    }
    return Manifest.model_validate({**whole, **changes})


def filled(root: Path, rows: int = 40) -> Path:
    folder = root / "tasks" / "tone"
    folder.mkdir(parents=True)
    made = [{"text": f"row {i}", "label": "good" if i % 2 else "bad"} for i in range(rows)]
    (folder / "train.jsonl").write_text(lines(made))
    (folder / "eval.jsonl").write_text(lines(made[:4]))
    return folder


@in_one_folder
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
def test_every_format_gives_the_same_rows(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    plain = [{"t": text, "output": output} for text, output in pairs]
    (tmp_path / "a.jsonl").write_text(lines(plain), encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(plain).encode()))
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["t", "output"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(plain)
    pq.write_table(pa.Table.from_pylist(plain), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"):
        rows = read_rows([name], root=tmp_path, columns={"text": "t"})
        assert [(row.fields["text"], row.output) for row in rows] == pairs
        assert {row.file for row in rows} == {name}


@in_one_folder
@given(st.binary(max_size=80), st.sampled_from(["x.jsonl", "x.csv", "x.jsonl.gz", "x.csv.gz", "x.parquet"]))
def test_any_bytes_are_rows_or_faults(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    rows, faults = collect_rows(
        [name], folder="", root=tmp_path, inputs=["text"], columns={}, kind="generation"
    )
    assert all(isinstance(row.fields["text"], str) for row in rows)
    assert all(fault.file == name and fault.rule for fault in faults)


def test_lines_count_from_one_and_skip_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\ufeff{"text": "a", "output": "x"}\n\n{"text": "b", "output": "y"}')
    (tmp_path / "b.csv").write_text('text,output\n"two\nlines",x\n\nplain,y\n')
    assert [row.line for row in read_rows(["a.jsonl"], root=tmp_path)] == [1, 3]
    assert [row.place for row in read_rows(["b.csv"], root=tmp_path)] == ["b.csv:2", "b.csv:5"]


def test_globs_are_read_in_order_of_name(tmp_path: Path) -> None:
    for name in ("part-2.jsonl", "part-1.jsonl", "other.jsonl"):
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep" / name).write_text(lines([{"text": name, "output": "x"}]))
    rows = read_rows(["deep/part-*.jsonl"], root=tmp_path)
    assert [row.fields["text"] for row in rows] == ["part-1.jsonl", "part-2.jsonl"]
    assert len(read_rows(["**/*.jsonl"], root=tmp_path)) == 3


def test_records_may_be_nested_or_text(tmp_path: Path) -> None:
    record = {"item": "tea", "count": 2}
    (tmp_path / "a.jsonl").write_text(lines([{"text": "t", "output": record}]))
    (tmp_path / "b.csv").write_text('text,output\nt,"{""item"": ""tea"", ""count"": 2}"\n')
    pq.write_table(pa.Table.from_pylist([{"text": "t", "output": record}]), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.csv", "c.parquet"):
        assert read_rows([name], root=tmp_path, kind="extraction")[0].output == record


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "NaN", "[Infinity]", '"\\ud800"', "[" * 100_000, "{"])
def test_json_that_is_not_strict_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_sizes_are_bounded_also_when_unpacked(tmp_path: Path) -> None:
    rows = lines([{"text": "a" * 500, "output": "x"}] * 50)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / "a.jsonl").write_text(rows)

    def rules(name: str, limits: Limits) -> set[str]:
        _, faults = collect_rows(
            [name], folder="", root=tmp_path, inputs=["text"], columns={}, kind="generation", limits=limits
        )
        return {fault.rule for fault in faults}

    assert rules("a.jsonl.gz", Limits(file_bytes=2000)) == {"file-too-large"}
    assert rules("a.jsonl", Limits(file_bytes=2000)) == {"file-too-large"}
    assert rules("a.jsonl", Limits(row_bytes=200)) == {"row-too-large"}
    assert rules("a.jsonl", Limits(rows=10)) == {"too-many-rows"}
    assert rules("a.jsonl", Limits()) == set()


def test_a_share_of_train_is_split_by_content_whatever_the_order(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    before = load_task_rows(tmp_path, task(0.25))
    assert len(before.train) + len(before.eval) == 40
    assert 2 <= len(before.eval) <= 20
    path = folder / "train.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    after = load_task_rows(tmp_path, task(0.25))
    assert {row.fields["text"] for row in after.eval} == {row.fields["text"] for row in before.eval}


def test_the_digest_follows_content_and_the_order_of_train(tmp_path: Path) -> None:
    folder = filled(tmp_path)

    def digest() -> str:
        return load_task_rows(tmp_path, task()).digest

    def reverse(path: Path) -> None:
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))

    first = digest()
    reverse(folder / "eval.jsonl")
    assert digest() == first
    reverse(folder / "train.jsonl")
    assert digest() != first
    reverse(folder / "train.jsonl")
    path = folder / "train.jsonl"
    path.write_text(path.read_text().replace('"row 7"', '"row seven"'))
    assert digest() != first


def test_loading_raises_every_fault_with_its_place(tmp_path: Path) -> None:
    folder = filled(tmp_path, rows=4)
    with (folder / "train.jsonl").open("a") as stream:
        stream.write('{"text": "x"}\nnot json\n')
    with pytest.raises(DataError) as caught:
        load_task_rows(tmp_path, task("none.jsonl"))
    assert [(f.rule, f.file, f.line) for f in caught.value.faults] == [
        ("missing-column", "tasks/tone/train.jsonl", 5),
        ("unreadable-row", "tasks/tone/train.jsonl", 6),
        ("no-such-file", "tasks/tone/task.yaml", None),
    ]
    rows, _ = collect_task_rows(tmp_path, task("none.jsonl"))
    assert isinstance(rows, TaskRows)
    assert len(rows.train) == 4


def test_many_faults_of_one_kind_are_counted_not_listed() -> None:
    many = [Fault("unreadable-row", "is bad", "a", line) for line in range(100)]
    kept = condense([*many, Fault("other", "is bad", "a")], keep=5)
    assert [fault.line for fault in kept] == [0, 1, 2, 3, 4, None]
    assert kept[4].message == "is bad; and 95 more like this"


def test_rows_carry_their_place() -> None:
    assert Row({"text": "a"}, "x", "f.parquet", None).place == "f.parquet"


def test_hub_addresses() -> None:
    assert parse_hub("hf://org/name/plain_text/train") == HubAddress("org/name", "plain_text", "train")
    for wrong in (
        "hf://org/name",
        "hf://../x/y/train",
        "hf://org/name/c/train/more",
        "s3://a/b/c/d",
        "hf://o/n/c/tr ain",
    ):
        with pytest.raises(ValueError, match="hf://org/name/config/split"):
            parse_hub(wrong)


def test_the_hub_offline_is_a_fault_that_says_what_to_do(tmp_path: Path) -> None:
    # In its own process: datasets reads the switch when imported.
    code = (
        "from fleet.data.rows import read_rows\nfrom pathlib import Path\n"
        "from fleet.errors import DataError\n"
        "try:\n    read_rows(['hf://org/name/default/train'], root=Path('.'))\n"
        "except DataError as error:\n    print(error.faults[0].rule, error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.startswith("hub-unreachable")
    assert "download the rows and name the files instead" in answer.stdout
