from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleet.cli.main import main

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
    ran = CliRunner().invoke(main, ["--root", str(fleet), "check", "beto"])
    assert ran.exit_code == 2
    assert "did you mean beta?" in ran.stderr


def test_faults_of_the_policy_and_of_fleet_yaml(fleet: Path) -> None:
    (fleet / "registry").mkdir()
    (fleet / "registry" / "policy.yaml").write_text("gate: {alpha: 2}\n")
    _, found = check(fleet)
    assert "registry/policy.yaml" in {fault["file"] for fault in found["faults"]}  # type: ignore[attr-defined]
    (fleet / "fleet.yaml").write_text("name: broken\nbass: gemma\nstorage: 3\n")
    code, found = check(fleet)
    assert code == 2
    assert {fault["line"] for fault in found["faults"]} == {2, 3}  # type: ignore[attr-defined]
