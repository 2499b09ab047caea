from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleet.cli.main import main
from fleet.cli.starter import starter_folder, starter_tasks
from fleet.project import Project


def test_a_new_fleet_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(main, ["init", "my-fleet", "--task", "sentiment", "--task", "bedtime-story"])
    assert made.exit_code == 0, made.output
    project = Project.find(tmp_path / "my-fleet")
    assert project.config.name == "my-fleet"
    assert project.task_names() == ["bedtime-story", "sentiment"]
    for file in ("registry/policy.yaml", "registry/README.md", ".gitignore"):
        assert (project.root / file).is_file()
    checked = CliRunner().invoke(main, ["--root", "my-fleet", "check", "--json"])
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["errors"] == 0


def test_without_a_choice_all_starter_tasks_come_along_byte_by_byte(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["init", str(tmp_path / "whole")]).exit_code == 0
    assert Project.find(tmp_path / "whole").task_names() == starter_tasks()
    assert len(starter_tasks()) == 7
    for file in (tmp_path / "whole" / "tasks").rglob("*.*"):
        assert file.read_bytes() == (starter_folder() / file.relative_to(tmp_path / "whole")).read_bytes()


def test_an_empty_folder_may_become_a_fleet_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made = CliRunner().invoke(main, ["init", ".", "--task", "sentiment"])
    assert made.exit_code == 0
    assert made.stdout == "here: a fleet with 1 task: sentiment\nnext: fleet check && fleet train-all\n"
    assert Project.find().config.name == "here"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["My Fleet"], ["'My Fleet'", "small letters"]),
        (["a"], ["'a'", "2 to 63", "the fleet's name"]),
        (["full"], ["not an empty folder"]),
        (["file"], ["not an empty folder"]),
        (["new", "--task", "sentimant"], ["sentimant", "did you mean sentiment?"]),
    ],
)
def test_what_cannot_be_made_leaves_nothing(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    ran = CliRunner().invoke(main, ["init", *arguments])
    assert ran.exit_code == 2
    for word in words:
        assert word in ran.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "kept.txt"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = CliRunner().invoke(main, ["init", str(tmp_path / "file/new")])
    assert ran.exit_code == 1
    assert "cannot be written" in ran.stderr
    assert "foresee" not in ran.stderr
