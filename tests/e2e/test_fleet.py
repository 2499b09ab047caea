"""A fleet's life on the real base, through the command line alone, as a new user would live it.

Two small tasks, about a minute of training: init, check, a training killed with SIGKILL and resumed,
train-all, route, promote, roll back, serve, MLflow's own loader, an altered artifact.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

TASKS = ("sentiment", "intent")
FLEET = str(Path(sys.executable).with_name("fleet"))


class Fleet:
    """The command line over one project, in processes of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {**os.environ, "NO_COLOR": "1"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [FLEET, *arguments],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=540)
        assert process.returncode == code, output
        return output

    def json(self, *arguments: str, code: int = 0) -> Any:
        done = subprocess.run(
            [FLEET, *arguments, "--json"],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def answers(self, task: str, text: str) -> Any:
        return self.json("route", "--task", task, text)["result"]["answers"]


def shrink(root: Path, task: str, rows: int, epochs: int) -> None:
    folder = root / "tasks" / task
    for name, keep in (("train", rows), ("eval", 24)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines()[:keep]))
    manifest = yaml.safe_load((folder / "task.yaml").read_text())
    # What is tested is the way, not the quality that a minute of training gives.
    manifest["evaluation"]["floor"] = 0.0
    manifest["training"] = {"epochs": epochs}
    (folder / "task.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, real_base_folder: Path) -> Fleet:
    above = Fleet(tmp_path_factory.mktemp("e2e"))
    above.run("init", "my-fleet", *(f"--task={task}" for task in TASKS))
    root = above.root / "my-fleet"
    for task in TASKS:
        shrink(root, task, rows=72, epochs=2)
    # A tiny training may lose against TF-IDF, and the gate would rightly hold it.
    (root / "registry" / "policy.yaml").write_text("gate: {must_beat_baseline: false}\n")
    settings = yaml.safe_load((root / "fleet.yaml").read_text())
    settings["training"] = {"threads": 1, "checkpoint_seconds": 1}
    (root / "fleet.yaml").write_text(yaml.safe_dump(settings))
    return Fleet(root)


def checkpoints(fleet: Fleet, task: str) -> Sequence[Path]:
    return list((fleet.root / ".fleet" / "storage" / "checkpoints" / task).glob("*/latest"))


def end_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the command, its Ray and its workers: nobody has time to say goodbye."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.timeout(900)
def test_a_killed_training_goes_on_where_it_was(fleet: Fleet) -> None:
    assert "0 errors" in fleet.run("check")
    process = fleet.start("train", "sentiment")
    assert process.stdout is not None
    seen: list[str] = []
    deadline = time.monotonic() + 300
    while not checkpoints(fleet, "sentiment"):
        assert time.monotonic() < deadline, "".join(seen)
        seen.append(process.stdout.readline())
        assert process.poll() is None, "".join(seen)
    end_all(process)
    (latest,) = checkpoints(fleet, "sentiment")
    state = json.loads((latest.parent / latest.read_text() / "state.json").read_text())
    assert state["step"] > 0
    report = fleet.json("train-all")
    assert {row["task"]: row["state"] for row in report["rows"]} == dict.fromkeys(TASKS, "trained")
    assert not checkpoints(fleet, "sentiment")
    again = fleet.json("train-all")
    assert {row["state"] for row in again["rows"]} == {"unchanged"}


def test_status_route_and_receipt(fleet: Fleet) -> None:
    status = {row["task"]: row for row in fleet.json("status")["tasks"]}
    assert {task: row["champion"]["version"] for task, row in status.items()} == dict.fromkeys(TASKS, 1)
    (answer,) = fleet.answers("sentiment", "Best toaster I ever had, and I had many.")
    assert answer["value"] in ("positive", "neutral", "negative")
    assert answer["receipt"]["digest"] == status["sentiment"]["champion"]["digest"]
    routed = fleet.json("route", "Where is my parcel? It should have been here on Monday.")["result"]
    assert routed["decision"]["kind"] == "route"
    assert routed["decision"]["task"] in TASKS
    assert "did you mean sentiment" in fleet.run("route", "--task", "sentimant", "x", code=2)


def test_a_new_version_is_promoted_and_rolled_back(fleet: Fleet) -> None:
    shrink(fleet.root, "sentiment", rows=60, epochs=1)
    (row,) = fleet.json("train", "sentiment")["rows"]
    assert (row["state"], row["version"]) == ("trained", 2)
    fleet.run("promote", "sentiment", "2", "--reason", "a test says so")
    assert fleet.answers("sentiment", "fine")[0]["receipt"]["version"] == 2
    fleet.run("rollback", "sentiment")
    assert fleet.answers("sentiment", "fine")[0]["receipt"]["version"] == 1


def test_the_fleet_is_served_follows_a_promotion_and_ends_when_it_is_told(fleet: Fleet) -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    process = fleet.start("serve", "--port", str(port))
    try:
        assert process.stdout is not None
        said: list[str] = []
        for line in iter(process.stdout.readline, ""):
            said.append(line)
            if f"http://127.0.0.1:{port}" in line:
                break
        else:
            raise AssertionError(f"it ended before it answered: {''.join(said)}")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:

            def version() -> int:
                answered = client.post("/v1/jobs", json={"text": "fine", "task": "sentiment"})
                assert answered.status_code == 200, answered.text
                return int(answered.json()["answers"][0]["receipt"]["version"])

            assert version() == 1
            fleet.run("promote", "sentiment", "2")
            deadline = time.monotonic() + 60
            while version() != 2:
                assert time.monotonic() < deadline, client.get("/v1/experts").text
            fleet.run("rollback", "sentiment")
            misspelt = client.post("/v1/jobs", json={"text": "fine", "task": "sentimant"})
            assert misspelt.status_code == 404
            assert "did you mean sentiment" in misspelt.text
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.communicate(timeout=120)
        assert process.returncode == 0
        assert not psutil.wait_procs(family, timeout=30)[1]
    finally:
        if process.poll() is None:
            end_all(process)


def test_mlflow_loads_and_answers_the_champion(fleet: Fleet) -> None:
    code = (
        "import mlflow, json\n"
        f"mlflow.set_tracking_uri('sqlite:///{fleet.root / '.fleet' / 'mlflow.db'}')\n"
        "model = mlflow.pyfunc.load_model('models:/sentiment@champion')\n"
        "print(json.dumps(model.predict([{'text': 'Broke after a day.'}])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=fleet.root, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout.splitlines()[-1])
    assert answer["answer"] in ("positive", "neutral", "negative")
    assert 0 < answer["confidence"] <= 1


def test_an_altered_artifact_is_refused_by_digest(fleet: Fleet) -> None:
    champion = {row["task"]: row["champion"] for row in fleet.json("status")["tasks"]}["intent"]
    for place in ("artifacts", "artifact-cache"):
        for card in (fleet.root / ".fleet" / place).rglob("expert.json"):
            if json.loads(card.read_text())["task"] == "intent":
                card.write_text(card.read_text().replace('"intent"', '"intents"', 1))
    output = fleet.run("route", "--task", "intent", "where is it", code=1)
    assert "altered" in output
    assert champion["digest"][:12] in output
    assert "Traceback" not in output
    fleet.run("route", "--task", "sentiment", "still here")
