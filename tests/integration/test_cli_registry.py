from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleet.cli.main import main
from fleet.cli.starter import copy_starter
from fleet.data.rows import load_task_rows
from fleet.project import Project
from fleet.registry.store import Registry, RunRecord
from fleet.registry.version import VersionInfo
from fleet.stores import open_registry

METRICS = {"macro_f1": 0.91, "macro_f1_low": 0.86, "macro_f1_high": 0.95}


@pytest.fixture
def project(tmp_path: Path, mlflow_template: Path) -> Project:
    copy_starter(tmp_path / "small", ["sentiment"])
    project = Project.find(tmp_path / "small")
    project.state.mkdir()
    shutil.copyfile(mlflow_template, project.state / "mlflow.db")
    return project


def version(project: Project, number: int) -> VersionInfo:
    """A version as a training of the project's files now would register it."""
    folder = project.state / f"artifact-{number}"
    folder.mkdir()
    (folder / "expert.json").write_text(json.dumps({"number": number}))
    manifest = project.task("sentiment")
    tags = {
        "manifest_digest": manifest.digest,
        "data_digest": load_task_rows(project.root, manifest).digest,
        "metric": "macro_f1",
    }
    registry: Registry = open_registry(project)
    return registry.log_version("sentiment", folder, RunRecord(metrics=METRICS), tags)


def fleet(project: Project, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--root", str(project.root), *arguments])


def test_promotion_rollback_and_status(project: Project) -> None:
    for number in (1, 2):
        version(project, number)
    first = fleet(project, "promote", "sentiment", "1", "--by", "ann", "--reason", "the first")
    assert first.exit_code == 0, first.output
    assert "version 1 is now champion, in nobody's place" in first.stdout
    second = fleet(project, "promote", "sentiment", "2", "--json")
    assert json.loads(second.stdout) == {"task": "sentiment", "before": 1, "after": 2, "changed": True}
    assert "champion already" in fleet(project, "promote", "sentiment", "2").stdout

    shown = fleet(project, "status").stdout
    row = next(line for line in shown.splitlines() if line.startswith("sentiment"))
    assert "version 2" in row
    assert "0.910 [0.860, 0.950]" in row
    assert row.rstrip().endswith("-"), "nothing has changed since"

    assert "version 1 is now champion" in fleet(project, "rollback", "sentiment").stdout
    none_left = fleet(project, "rollback", "sentiment")
    assert none_left.exit_code == 1
    assert "no champion before it" in none_left.stderr


def test_status_names_what_has_changed(project: Project) -> None:
    version(project, 1)
    fleet(project, "promote", "sentiment", "1")
    manifest = project.root / "tasks/sentiment/task.yaml"
    manifest.write_text(manifest.read_text() + "training: {epochs: 9}\n")
    rows = project.root / "tasks/sentiment/train.jsonl"
    rows.write_text("\n".join(rows.read_text().splitlines()[1:]) + "\n")
    (status,) = json.loads(fleet(project, "status", "--json").stdout)["tasks"]
    assert status["champion"]["version"] == 1
    assert set(status["drift"]) == {"manifest", "data"}
    rows.write_text("no row\n")
    assert "files at fault" in fleet(project, "status").stdout
    shutil.rmtree(rows.parent)
    assert "no longer declared" in fleet(project, "status").stdout


def test_before_anything_is_trained(project: Project) -> None:
    status = fleet(project, "status")
    assert status.exit_code == 0, status.output
    assert "no task has a champion yet: fleet train-all" in status.stdout
    assert "router: none yet (fleet train-all)" in status.stdout
    for command in ("promote", "rollback"):
        ran = fleet(project, command, "sentiment")
        assert ran.exit_code == 2
        assert "sentiment has no version yet: fleet train sentiment" in ran.stderr
    fitted = fleet(project, "router", "fit")
    assert fitted.exit_code == 2
    assert "fleet train-all" in fitted.stderr
    routed = fleet(project, "route", "hello")
    assert routed.exit_code == 1
    assert "no task has a champion yet" in routed.stderr


def test_a_mistyped_task_is_answered_with_the_nearest(project: Project) -> None:
    version(project, 1)
    ran = fleet(project, "promote", "sentimint")
    assert ran.exit_code == 2
    assert "did you mean sentiment?" in ran.stderr
    absent = fleet(project, "promote", "sentiment", "99")
    assert absent.exit_code == 2
    assert "there are: 1" in absent.stderr


def test_a_port_that_is_taken(project: Project) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ran = fleet(project, "ui", "--port", str(other.getsockname()[1]))
    assert ran.exit_code == 1
    assert "--port" in ran.stderr
