from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleet.cli.main import main
from fleet.config import BUILT_IN_BASES

TASK = """task: {name}
description: Whether a review is good.
kind: classification
labels: [good, bad]
data: {{train: train.jsonl, eval: eval.jsonl, columns: {{output: label}}}}
{more}"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    (tmp_path / "fleet.yaml").write_text("name: broken\n")
    for name, more in (("alpha", "adaptor: {rank: 8}\n"), ("beta", "")):
        folder = tmp_path / "tasks" / name
        folder.mkdir(parents=True)
        (folder / "task.yaml").write_text(TASK.format(name=name, more=more))
        (folder / "train.jsonl").write_text('{"text": "a fine kettle", "label": "god"}\n')
        (folder / "eval.jsonl").write_text('{"text": "", "label": "bad"}\n')
    return tmp_path


def check(root: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    ran = CliRunner().invoke(main, ["--root", str(root), "check", "--json", *arguments])
    return ran.exit_code, json.loads(ran.stdout)


def test_all_faults_at_once_with_their_places(fleet: Path) -> None:
    ran = CliRunner().invoke(main, ["--root", str(fleet), "check"])
    assert ran.exit_code == 2
    assert "tasks/alpha/task.yaml:6: adaptor" in ran.stdout
    assert "tasks/beta/train.jsonl:1" in ran.stdout
    assert "[unknown-label]" in ran.stdout
    assert "in 2 tasks" in ran.stdout


def test_one_task(fleet: Path) -> None:
    code, found = check(fleet, "beta")
    assert code == 2
    files = {fault["file"] for fault in found["faults"]}  # type: ignore[attr-defined]
    assert files
    assert all(file.startswith("tasks/beta/") for file in files)


def test_an_unknown_task_has_a_nearest_one(fleet: Path) -> None:
    ran = CliRunner().invoke(main, ["--root", str(fleet), "check", "nope", "beta", "beto"])
    assert ran.exit_code == 2
    assert "there is no task called nope" in ran.stderr
    assert "no task called beto; did you mean beta?" in ran.stderr


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("base: gemma-3-27b", "unknown-base"),
        ("base: ./absent", "unknown-base"),
        ("storage: ../elsewhere", "bad-storage"),
        ("storage: s33://bucket/prefix", "bad-storage"),
        ("tracking_uri: mlflow.example.org:5000", "bad-tracking-uri"),
        ("tracking_uri: htp://ann:secret@host", "bad-tracking-uri"),
    ],
)
def test_settings_that_a_training_would_refuse(fleet: Path, setting: str, rule: str) -> None:
    (fleet / "fleet.yaml").write_text(f"name: broken\n{setting}\n")
    code, found = check(fleet)
    assert code == 2
    (fault,) = [f for f in found["faults"] if f["file"] == "fleet.yaml"]  # type: ignore[attr-defined]
    field, _, value = setting.partition(": ")
    assert (fault["rule"], fault["line"], fault["field"]) == (rule, 2, field)
    assert fault["value"] == repr(value.replace("ann:secret@", "...@"))


@pytest.mark.parametrize(
    "setting",
    [
        "base: google/gemma-3-270m",
        "base: own",
        "storage: /srv/fleet",
        "storage: kept/here",
        "storage: memory://fleet",
        "tracking_uri: ''",
        "tracking_uri: http://host:5000",
        "tracking_uri: postgresql+psycopg://mlflow@db/mlflow",
        "tracking_uri: sqlite:////srv/mlflow.db",
        "tracking_uri: databricks",
    ],
)
def test_settings_that_are_fine(fleet: Path, setting: str) -> None:
    (fleet / "own").mkdir()
    (fleet / "fleet.yaml").write_text(f"name: broken\n{setting}\n")
    _, found = check(fleet)
    assert "fleet.yaml" not in {fault["file"] for fault in found["faults"]}  # type: ignore[attr-defined]


def test_the_built_in_bases_are_those_of_the_engine() -> None:
    from fleet.engine.base import BUILT_IN

    assert set(BUILT_IN_BASES) == set(BUILT_IN)


def test_rows_that_break_the_same_rule_share_a_line(fleet: Path) -> None:
    rows = "".join(f'{{"text": "kettle number {n}", "labl": "good"}}\n' for n in range(50))
    (fleet / "tasks/beta/train.jsonl").write_text(rows)
    shown = CliRunner().invoke(main, ["--root", str(fleet), "check", "beta"]).stdout
    (line,) = [line for line in shown.splitlines() if "missing-column" in line]
    assert "tasks/beta/train.jsonl:1" in line
    assert "50 of these, also on line 2, 3, 4, 5, ..." in line
    _, found = check(fleet, "beta")
    assert sum(f["rule"] == "missing-column" for f in found["faults"]) == 20  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train.csv", "text;label\na;good\n", "semicolons"),
        ("train.jsonl", '[\n {"text": "a", "label": "good"}\n]\n', "one object a line"),
        ("train.jsonl", '[{"text": "a", "label": "good"}]\n', "one object a line"),
    ],
)
def test_files_in_a_neighbouring_format_get_a_hint(fleet: Path, file: str, content: str, words: str) -> None:
    task = fleet / "tasks/beta"
    (task / "task.yaml").write_text((task / "task.yaml").read_text().replace("train.jsonl", file))
    (task / file).write_text(content)
    _, found = check(fleet, "beta")
    messages = [f["message"] for f in found["faults"] if f["file"].endswith(file)]  # type: ignore[attr-defined]
    assert len(messages) == 1
    assert words in messages[0]


def test_files_that_are_missing_misnamed_or_empty(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("name: bare\n")
    (tmp_path / "tasks/alpha").mkdir(parents=True)
    (tmp_path / "tasks/alpha/task.yml").touch()
    shown = CliRunner().invoke(main, ["--root", str(tmp_path), "check"]).stdout
    assert "rename task.yml" in shown
    assert "tasks/: holds no task:" in shown
    (tmp_path / "tasks/alpha/task.yml").rename(tmp_path / "tasks/alpha/task.yaml")
    shown = CliRunner().invoke(main, ["--root", str(tmp_path), "check"]).stdout
    assert "is empty" in shown
    assert "None" not in shown


def test_faults_of_the_policy_and_of_fleet_yaml(fleet: Path) -> None:
    (fleet / "registry").mkdir()
    (fleet / "registry" / "policy.yaml").write_text("gate: {alpha: 2}\n")
    _, found = check(fleet)
    assert "registry/policy.yaml" in {fault["file"] for fault in found["faults"]}  # type: ignore[attr-defined]
    (fleet / "fleet.yaml").write_text("name: broken\nbass: gemma\nstorage: 3\n")
    code, found = check(fleet)
    assert code == 2
    assert {fault["line"] for fault in found["faults"]} == {2, 3}  # type: ignore[attr-defined]


def test_tasks_that_are_copies_are_a_warning_with_colliding_rows(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("name: twins\n")
    rows = [
        json.dumps({"text": f"kettle {n} of {n * n}", "label": "good" if n % 2 else "bad"}) + "\n"
        for n in range(20)
    ]
    for name in ("alpha", "beta"):
        folder = tmp_path / "tasks" / name
        folder.mkdir(parents=True)
        (folder / "task.yaml").write_text(TASK.format(name=name, more=""))
        (folder / "train.jsonl").write_text("".join(rows))
        (folder / "eval.jsonl").write_text(json.dumps({"text": f"a pot for {name}", "label": "bad"}) + "\n")
    for named in ((), ("alpha",), ("beta",)):
        code, found = check(tmp_path, *named)
        assert (code, found["errors"]) == (0, 0), found
        (alike,) = [f for f in found["faults"] if f["rule"] == "tasks-alike"]  # type: ignore[attr-defined]
        assert alike["severity"] == "warning"
        assert "100% of the first" in alike["message"]
        assert "they share 20 training rows" in alike["message"]
        for file in ("tasks/alpha/train.jsonl:", "tasks/beta/train.jsonl:"):
            assert alike["message"].count(file) == 3


def test_jobs_of_nobody_that_are_no_jobs_or_are_rows_of_a_task(tmp_path: Path) -> None:
    folder = tmp_path / "tasks" / "alpha"
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text(TASK.format(name="alpha", more=""))
    for part in ("train", "eval"):
        rows = [{"text": f"{part} kettle {n}", "label": ("good", "bad")[n % 2]} for n in range(40)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "fleet.yaml").write_text("name: mine\nrouting: {out_of_scope_jobs: nobody.jsonl}\n")
    (tmp_path / "nobody.jsonl").write_text('{"text": "sing"}\n{"text": "TRAIN  kettle 7!"}\n')
    code, found = check(tmp_path)
    warnings = [each for each in found["faults"] if each["rule"] == "row-of-a-task"]  # type: ignore[attr-defined]
    assert code == 0
    assert ["tasks/alpha/train.jsonl:8" in each["message"] for each in warnings] == [True]
    (tmp_path / "nobody.jsonl").write_text('{"text": 5}\n{"txt": "a"}\n[1]\n')
    ran = CliRunner().invoke(main, ["--root", str(tmp_path), "check"])
    assert ran.exit_code == 2
    for words in (
        "routing.out_of_scope_jobs",
        "line 1: text should be text",
        "line 2: unknown key",
        "line 3:",
    ):
        assert words in ran.stdout
