"""A project is found where the user is, and keeps paths inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.errors import ManifestError, ProjectError
from fleet.project import Project

TASK = """task: {name}
description: d
kind: generation
data: {{train: train.jsonl, eval: eval.jsonl}}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "fleet.yaml").write_text("name: mine\n")
    for name in ("zebra", "apple-pie"):
        (tmp_path / "tasks" / name).mkdir(parents=True)
        (tmp_path / "tasks" / name / "task.yaml").write_text(TASK.format(name=name))
    return tmp_path


def test_it_is_found_from_a_folder_below(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEET_ROOT", raising=False)
    monkeypatch.chdir(root / "tasks" / "zebra")
    assert Project.find().root == root
    monkeypatch.chdir(root.parent)
    monkeypatch.setenv("FLEET_ROOT", str(root))
    assert Project.find().config.name == "mine"
    with pytest.raises(ProjectError, match=r"fleet\.yaml"):
        Project.find(root / "tasks")


def test_tasks_come_by_name_and_a_near_miss_is_suggested(root: Path) -> None:
    project = Project.find(root)
    assert list(project.tasks()) == ["apple-pie", "zebra"]
    with pytest.raises(ManifestError, match="did you mean zebra"):
        project.task("zebras")


def test_faults_of_all_manifests_come_at_once(root: Path) -> None:
    for name in ("zebra", "apple-pie"):
        (root / "tasks" / name / "task.yaml").write_text("task: [\n")
    with pytest.raises(ManifestError) as caught:
        Project.find(root).tasks()
    assert {fault.file for fault in caught.value.faults} == {
        "tasks/apple-pie/task.yaml",
        "tasks/zebra/task.yaml",
    }


@pytest.mark.parametrize("path", ["..", "../x", "/etc/passwd", "tasks/../../x"])
def test_paths_that_leave_it_are_refused(root: Path, path: str) -> None:
    with pytest.raises(ProjectError, match="leaves the project"):
        Project.find(root).resolve(path)
