"""Trainings of a tiny base on three Ray nodes of one machine, whose workers and nodes die."""

from __future__ import annotations

import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from fleet.assignment import Assignment, TaskOutcome, assign
from fleet.cluster.board import Started
from fleet.cluster.session import connect
from fleet.cluster.training import train_on_cluster
from fleet.data.rows import Row, TaskRows
from fleet.engine.base_folder import fingerprint
from fleet.engine.testing import write_tiny_base
from fleet.engine.train import Progress
from fleet.manifest import Manifest
from fleet.storage import Storage
from fleet.training import train_assignments


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_base(tmp_path_factory.mktemp("base") / "tiny"))


@pytest.fixture
def nodes(ray_cluster: Cluster) -> Iterator[list[Any]]:
    """Two more nodes; with the head, three."""
    added = [ray_cluster.add_node(num_cpus=1, object_store_memory=100_000_000) for _ in range(2)]
    ray_cluster.wait_for_nodes()
    yield added
    for node in added:
        if node in ray_cluster.list_all_nodes():
            ray_cluster.remove_node(node)


@cache
def tiny_fingerprint() -> str:
    """Of the tiny base, whose bytes are the same wherever it is written."""
    with tempfile.TemporaryDirectory() as folder:
        return fingerprint(write_tiny_base(Path(folder) / "tiny"))


def assignment(task: str, rows: int = 40) -> Assignment:
    manifest = Manifest.model_validate(
        {
            "task": task,
            "description": "Whether a row is good.",
            "kind": "classification",
            "labels": ["good", "bad"],
            "data": {"train": "train.jsonl", "eval": "eval.jsonl"},
            "adapter": {"layers": [2, 6], "rank": 4},
            "training": {"epochs": 2, "batch_tokens": 64},
        }
    )
    made = [
        Row(
            {"text": f"{task} row {i} was {'fine' if i % 3 else 'poor'}"},
            "good" if i % 3 else "bad",
            "t.jsonl",
            i,
        )
        for i in range(rows)
    ]
    return assign(manifest, TaskRows(train=made, eval=made[:6], digest=f"{task}-{rows}"), tiny_fingerprint())


@dataclass
class Watch:
    """What the driver is told, in order; subclasses step in."""

    storage: Storage
    started: list[Started] = field(default_factory=list)
    heard: list[Progress] = field(default_factory=list)
    outcomes: list[TaskOutcome] = field(default_factory=list)

    def start(self, started: Started) -> None:
        self.started.append(started)

    def progress(self, progress: Progress) -> None:
        self.heard.append(progress)

    def pid(self, task: str) -> int:
        return [s.pid for s in self.started if task in s.tasks][-1]

    def attempts(self, task: str) -> list[int]:
        return [s.attempt for s in self.started if task in s.tasks]

    def saved(self, progress: Progress) -> bool:
        """Whether this task is in mid-training with a checkpoint to its name."""
        place = self.storage.local(f"checkpoints/{progress.task}")
        assert place is not None
        return progress.state == "training" and progress.step < progress.steps and any(place.glob("*/latest"))

    def first_step_after(self, attempt: int, task: str) -> int:
        """Where the given attempt took up: the step of its first word."""
        words = [p for p in self.heard if p.task == task]
        preparing = [p.step for p in words if p.state == "preparing"]
        return preparing[attempt - 1]


def train(watch: Watch, assignments: Sequence[Assignment], base: str, **settings: Any) -> list[TaskOutcome]:
    assert watch.storage.local("x") is not None
    with connect() as session:
        return train_on_cluster(
            session,
            assignments,
            base_name=base,
            storage=watch.storage.address,
            cache_dir=Path("unused"),
            threads=1,
            checkpoint_seconds=0.1,
            on_progress=watch.progress,
            on_outcome=watch.outcomes.append,
            on_start=watch.start,
            **settings,
        )


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def test_a_node_killed_in_mid_training(
    ray_cluster: Cluster, nodes: list[Any], base: str, storage: Storage
) -> None:
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
    killed: list[str] = []

    class Killer(Watch):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if killed or not self.saved(progress):
                return
            node = raylets.get(psutil.Process(self.pid(progress.task)).ppid())
            if node is not None:  # the head is spared: the driver is on it
                killed.append(progress.task)
                ray_cluster.remove_node(node, allow_graceful=False)

    watch = Killer(storage)
    tasks = ["one", "two", "three"]
    outcomes = train(watch, [assignment(task, 200) for task in tasks], base)
    assert len(killed) == 1
    assert [(o.task, o.error) for o in outcomes] == [(task, None) for task in tasks]
    assert Counter(o.task for o in watch.outcomes) == Counter(tasks)
    assert {task: watch.attempts(task) for task in tasks} == {
        task: [1, 2] if task in killed else [1] for task in tasks
    }
    assert watch.first_step_after(2, killed[0]) > 0
    assert all(storage.exists(o.artifact) for o in outcomes)


def test_a_killed_worker_resumes_and_gives_the_expert_that_it_would_have_given(
    ray_cluster: Cluster, base: str, storage: Storage, tmp_path: Path
) -> None:
    class Killer(Watch):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if len(self.started) == 1 and self.saved(progress):
                os.kill(self.pid(progress.task), signal.SIGKILL)

    watch = Killer(storage)
    work = assignment("sole", 200)
    [outcome] = train(watch, [work], base)
    assert (outcome.error, watch.attempts("sole")) == (None, [1, 2])
    assert watch.first_step_after(2, "sole") > 0
    [undisturbed] = train_assignments(
        [work],
        base_name=base,
        storage=Storage(str(tmp_path / "other")),
        scratch=tmp_path / "scratch",
        cache_dir=tmp_path,
        threads=1,
    )
    assert outcome.digest == undisturbed.digest

    again = Watch(storage)
    assert [o.digest for o in train(again, [work], base)] == [outcome.digest]
    assert again.heard == []  # what is done is not done twice


def test_failures_stop_no_other_and_are_not_tried_again_in_vain(
    ray_cluster: Cluster, base: str, storage: Storage
) -> None:
    class Killer(Watch):
        def start(self, started: Started) -> None:
            super().start(started)
            if started.tasks == ("doomed",):
                os.kill(started.pid, signal.SIGKILL)

    watch = Killer(storage)
    work = [assignment("doomed", 200), assignment("empty", 0), assignment("fine", 20)]
    doomed, empty, fine = train(watch, work, base, max_retries=1)
    assert "died in each of 2 attempts" in (doomed.error or "")
    assert watch.attempts("doomed") == [1, 2]
    assert empty.error is not None
    assert watch.attempts("empty") == [1]
    assert fine.error is None
    assert Counter(o.task for o in watch.outcomes) == Counter(["doomed", "empty", "fine"])
    assert not storage.exists("runs") or not list((storage.local("runs") or Path()).iterdir())


def test_an_interruption_leaves_a_checkpoint_from_which_the_next_run_goes_on(
    ray_cluster: Cluster, base: str, storage: Storage
) -> None:
    class Impatient(Watch):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if progress.state == "training" and progress.step > 3:
                raise KeyboardInterrupt

    work = [assignment("first", 250), assignment("second", 20)]
    impatient = Impatient(storage)
    with pytest.raises(KeyboardInterrupt):
        train(impatient, work, base)
    assert impatient.outcomes == []
    seen = impatient.heard[-1].step
    watch = Watch(storage)
    assert [o.error for o in train(watch, work, base)] == [None, None]
    # Its first word may be lost behind a later one: whatever is heard first lies behind the checkpoint.
    assert next(p.step for p in watch.heard if p.task == "first") >= seen
    assert watch.attempts("second") == [1]


def test_a_storage_that_workers_do_not_see_is_told(ray_cluster: Cluster, base: str) -> None:
    with connect() as session:
        [outcome] = train_on_cluster(
            session,
            [assignment("lonely", 10)],
            base_name=base,
            storage="memory://fleet",
            cache_dir=Path("unused"),
        )
    assert "does not see the storage memory://fleet" in (outcome.error or "")
