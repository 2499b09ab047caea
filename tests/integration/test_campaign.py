"""From manifests to champions and routed answers on a tiny base: real Ray, real MLflow, real files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from ray.cluster_utils import Cluster

import fleet.router_release
from fleet.assignment import TaskOutcome, assign
from fleet.campaign import CampaignReport, run_campaign
from fleet.data.rows import load_task_rows
from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.body import Body
from fleet.engine.expert import read_expert
from fleet.engine.gemma import Gemma
from fleet.engine.int8 import kernel_fault
from fleet.engine.specs import Weights
from fleet.engine.testing import write_tiny_base
from fleet.engine.train import Progress
from fleet.errors import ArtifactError, BaseError, DigestError, InputError, ManifestError
from fleet.host import Host
from fleet.job import Job
from fleet.project import Project
from fleet.registry.door import enter
from fleet.registry.lifecycle import promote, rollback
from fleet.registry.store import ROUTER
from fleet.router_release import refit_router
from fleet.storage import Storage
from fleet.stores import artifact_cache, open_base, open_registry
from fleet.training import train_assignments

LIGHTER: tuple[Weights, ...] = ("int8", "int4")
TOPICS = {
    "weather": (["sun", "rain"], "{} over the bay on day {}, says the forecast"),
    "cooking": (["sweet", "sour"], "a {} dish with {} spoons of something in the pan"),
}


@dataclass
class Watch:
    notes: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    heard: list[Progress] = field(default_factory=list)
    outcomes: list[TaskOutcome] = field(default_factory=list)

    def started(self, tasks: list[str]) -> None:
        self.tasks = tasks

    def progress(self, progress: Progress) -> None:
        self.heard.append(progress)

    def outcome(self, outcome: TaskOutcome) -> None:
        self.outcomes.append(outcome)

    def note(self, text: str) -> None:
        self.notes.append(text)


def write_task(root: Path, task: str, rows: int = 48, **changes: object) -> None:
    labels, text = TOPICS[task]
    folder = root / "tasks" / task
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "task": task,
        "description": f"Which kind of {task}.",
        "kind": "classification",
        "labels": labels,
        "data": {"train": "train.jsonl", "eval": "eval.jsonl", "columns": {"output": "label"}},
        "adapter": {"layers": [2, 6], "rank": 4},
        "training": {"epochs": 2, "learning_rate": 0.01},
        "routing": {"examples": [f"what {task} is it?"]},
        **changes,
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(manifest))
    for name, start, stop in (("train", 0, rows), ("eval", 1000, 1010)):
        lines = [{"text": text.format(labels[i % 2], i), "label": labels[i % 2]} for i in range(start, stop)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Path:
    root = tmp_path_factory.mktemp("fleet")
    write_tiny_base(root / "base")
    (root / "fleet.yaml").write_text("name: tiny\nbase: base\ntrunk_layers: 2\n")
    (root / "registry").mkdir()
    # Tiny random models beat nobody: the gate's other rules have tests of their own.
    (root / "registry" / "policy.yaml").write_text("gate: {must_beat_baseline: false}\n")
    (root / ".fleet").mkdir()
    shutil.copyfile(mlflow_template, root / ".fleet" / "mlflow.db")
    for task in TOPICS:
        write_task(root, task)
    return root


def campaign(
    root: Path, cluster: Cluster, names: Sequence[str] = (), **options: object
) -> tuple[CampaignReport, Watch]:
    watch = Watch()
    report = run_campaign(Project.find(root), names, watch, address=cluster.address, **options)  # type: ignore[arg-type]
    return report, watch


def test_a_fleet_from_manifests_to_answers(root: Path, ray_cluster: Cluster) -> None:
    report, watch = campaign(root, ray_cluster)
    assert not report.failed, report
    assert [(row.task, row.state, row.version, row.verdict) for row in report.rows] == [
        ("cooking", "trained", 1, "promoted"),
        ("weather", "trained", 1, "promoted"),
    ]
    assert {p.state for p in watch.heard} >= {"training", "validating", "evaluating"}
    registry = open_registry(Project.find(root))
    assert sorted(registry.champions()) == ["cooking", ROUTER, "weather"]

    again, watch = campaign(root, ray_cluster)
    assert [row.state for row in again.rows] == ["unchanged", "unchanged"]
    assert watch.outcomes == []
    assert "unchanged" in again.router

    host = Host.open(Project.find(root))
    routed, forced, unknown, empty = host.answer(
        [
            Job("1", text="rain over the bay on day 7, says the forecast"),
            Job("2", text="anything", task="cooking"),
            Job("3", text="anything", task="cookng"),
            Job("4", text="  "),
        ]
    )
    assert routed.decision is not None
    assert (routed.decision.kind, routed.decision.task) == ("route", "weather")
    (answer,) = routed.answers
    assert answer.value in TOPICS["weather"][0]
    assert answer.receipt.digest == registry.champions()["weather"].digest
    assert answer.receipt.version == 1
    assert forced.answers[0].value in TOPICS["cooking"][0]
    assert "did you mean cooking" in str(unknown.error)
    assert "empty" in str(empty.error)

    assert routed.answers[0].receipt.weights == "bf16"
    for weights in LIGHTER:
        if weights == "int8" and kernel_fault() is not None:
            with pytest.raises(InputError, match=r"--weights int8: .*; use bf16"):
                Host.open(Project.find(root), weights=weights)
            continue
        light = Host.open(Project.find(root), weights=weights).answer(
            [Job("1", text="rain over the bay on day 7", task="weather"), Job("2", text="anything")]
        )
        assert light[0].answers[0].receipt.weights == weights
        assert light[1].decision is not None


def test_changed_data_is_a_new_version_and_is_held_against_the_champion(
    root: Path, ray_cluster: Cluster
) -> None:
    write_task(root, "weather", rows=52)
    report, watch = campaign(root, ray_cluster)
    assert [o.task for o in watch.outcomes] == ["weather"]
    (row,) = [row for row in report.rows if row.task == "weather"]
    assert (row.version, row.state) == (2, "trained")
    assert row.champion_value == row.champion_value  # a figure: the champion was scored on the same rows
    registry = open_registry(Project.find(root))
    champion, challenger = registry.champion("weather"), registry.challenger("weather")
    assert champion is not None
    if row.verdict == "promoted":
        assert champion.version == 2
        assert rollback(registry, "weather", by="test").after == 1
    else:
        assert challenger is not None
        assert (champion.version, challenger.version) == (1, 2)


def test_a_broken_task_is_a_failed_row_and_the_others_train(root: Path, ray_cluster: Cluster) -> None:
    write_task(root, "weather", rows=56)
    broken = root / "tasks" / "broken"
    broken.mkdir()
    (broken / "task.yaml").write_text(
        "task: broken\ndescription: d\nkind: extraction\ndata: {train: t.jsonl, eval: e.jsonl}\n"
        "schema: {type: object, properties: {when: {type: string, format: date}}}\n"
    )
    try:
        report, watch = campaign(root, ray_cluster)
    finally:
        shutil.rmtree(broken)
    states = {row.task: row.state for row in report.rows}
    assert states == {"broken": "failed", "cooking": "unchanged", "weather": "trained"}
    assert report.failed
    assert "schema.properties.when.format: the keyword format" in str(report.rows[0].error)
    assert watch.tasks == ["weather"]  # nothing of it was started
    with pytest.raises(ManifestError, match="did you mean weather"):
        campaign(root, ray_cluster, ["wether"])


def test_what_is_evaluated_is_what_is_registered(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.find(root)
    manifest = project.task("weather")
    judged: list[Adapter | Body] = []
    alone = AdapterBank.alone

    def seen(model: Gemma, adapter: Adapter | Body) -> AdapterBank:
        judged.append(adapter)
        return alone(model, adapter)

    monkeypatch.setattr(AdapterBank, "alone", seen)
    (outcome,) = train_assignments(
        [assign(manifest, load_task_rows(root, manifest), open_base(project).fingerprint)],
        base_name="base",
        root=root,
        storage=Storage(str(tmp_path / "storage")),
        scratch=tmp_path / "scratch",
        cache_dir=tmp_path,
    )
    assert outcome.error is None
    registered, _ = read_expert(tmp_path / "scratch" / outcome.artifact, digest=outcome.digest)
    for name, tensor in registered.tensors.items():
        assert torch.equal(judged[-1].tensors[name].float(), tensor.float())


def test_a_worker_with_another_base_refuses(root: Path, tmp_path: Path) -> None:
    project = Project.find(root)
    manifest = project.task("weather")
    foreign = assign(manifest, load_task_rows(root, manifest), "f" * 64)
    with pytest.raises(BaseError, match="give all machines the same one"):
        train_assignments(
            [foreign],
            base_name="base",
            root=root,
            storage=Storage(str(tmp_path / "storage")),
            scratch=tmp_path,
            cache_dir=tmp_path,
        )


def test_the_router_follows_the_base(root: Path) -> None:
    """Another base under the same tasks and rows: the old router must not count as fitted."""
    project = Project.find(root)
    registry = open_registry(project)
    before = registry.champion(ROUTER)
    assert before is not None
    client = enter().MlflowClient(tracking_uri=registry.tracking_uri)
    table = Path(client.download_artifacts(before.run_id, "tasks.json", str(root)))
    shown = json.loads(table.read_text())
    fares = [dict(zip(shown["columns"], row, strict=True)) for row in shown["data"]]
    assert len(fares) == 2
    assert all(
        {"task", "coverage", "misroutes", "low", "high", "budget", "shown"} <= fare.keys() for fare in fares
    )
    assert "unchanged" in refit_router(project, registry, lambda: open_base(project))
    shutil.move(root / "base", root / "kept")
    write_tiny_base(root / "base", seed=9)
    try:
        assert "over 2 tasks" in refit_router(project, registry, lambda: open_base(project))
        after = registry.champion(ROUTER)
        assert after is not None
        assert after.digest != before.digest
    finally:
        shutil.rmtree(root / "base")
        shutil.move(root / "kept", root / "base")
    refit_router(project, registry, lambda: open_base(project))
    again = registry.champion(ROUTER)
    assert again is not None
    assert again.digest == before.digest


def test_a_router_that_could_not_be_loaded_is_not_registered(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.find(root)
    registry = open_registry(project)
    before = registry.versions(ROUTER)
    fit = fleet.router_release.fit_router
    monkeypatch.setattr(
        fleet.router_release,
        "fit_router",
        lambda *args, **options: replace(fit(*args, **options), metrics={"cv_rows": float("nan")}),
    )
    monkeypatch.setattr(fleet.router_release, "_same", lambda *_: False)
    with pytest.raises(ArtifactError, match="finite number"):
        refit_router(project, registry, lambda: open_base(project))
    assert registry.versions(ROUTER) == before


def test_the_router_learns_from_a_description(root: Path) -> None:
    project = Project.find(root)
    registry = open_registry(project)
    name = project.task_names()[0]
    manifest = root / "tasks" / name / "task.yaml"
    said = yaml.safe_load(manifest.read_text())
    was = manifest.read_text()
    assert "unchanged" in refit_router(project, registry, lambda: open_base(project))
    manifest.write_text(yaml.safe_dump({**said, "description": "Something else altogether."}))
    try:
        changed = refit_router(Project.find(root), registry, lambda: open_base(project))
        assert "unchanged" not in changed
    finally:
        manifest.write_text(was)
    refit_router(Project.find(root), registry, lambda: open_base(project))


def test_an_altered_artifact_answers_nothing_and_disturbs_nobody(root: Path) -> None:
    project = Project.find(root)
    registry = open_registry(project)
    champion = registry.champions()["cooking"]
    shutil.rmtree(artifact_cache(project), ignore_errors=True)
    (file,) = [
        path
        for path in (root / ".fleet" / "artifacts").rglob("adapter_model.safetensors")
        if json.loads((path.parent / "expert.json").read_text())["task"] == "cooking"
    ]
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DigestError, match="altered"):
            registry.fetch(champion, artifact_cache(project))
        host = Host.open(project)
        bad, good = host.answer([Job("1", text="x", task="cooking"), Job("2", text="x", task="weather")])
        assert "altered" in str(bad.error)
        assert bad.answers == ()
        assert good.answers[0].task == "weather"
        assert list(host.quarantined) == ["cooking"]
    finally:
        file.write_bytes(content)


def test_a_full_expert_is_trained_and_hosted_beside_a_lora_one(root: Path, ray_cluster: Cluster) -> None:
    full = {"adapter": {"method": "full", "layers": [2, 6]}, "training": {"epochs": 2, "learning_rate": 1e-3}}
    write_task(root, "weather", **full)
    report, _ = campaign(root, ray_cluster, ["weather"])
    (row,) = report.rows
    assert (row.state, row.error) == ("trained", None)
    project = Project.find(root)
    registry = open_registry(project)
    if row.verdict != "promoted":
        promote(registry, "weather", row.version, by="test")
    champions = registry.champions()
    assert champions["weather"].version == row.version
    folder = registry.fetch(champions["weather"], artifact_cache(project))
    assert sorted(path.name for path in folder.iterdir()) == ["body.json", "body.safetensors", "expert.json"]

    texts = [f"rain over the bay on day {day}, says the forecast" for day in (3, 4)]
    jobs = [Job(f"{task}-{text}", text=text, task=task) for text in texts for task in TOPICS]
    together = Host.open(project).answer(jobs)
    # One by one the full expert comes first, and must survive the bank's growing for the other.
    one_by_one = Host.open(project)
    for job, result in zip(jobs, together, strict=True):
        (answer,) = result.answers
        assert answer.receipt.digest == champions[str(job.task)].digest
        (alone,) = one_by_one.answer([job])
        assert alone.answers[0].value == answer.value
        assert alone.answers[0].confidence == pytest.approx(answer.confidence, rel=0.02)  # bf16

    mlflow = enter()
    mlflow.set_tracking_uri(registry.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/weather@champion", model_config={"base": str(root / "base")})
    given = [row["answer"] for row in model.predict(pd.DataFrame({"text": texts}))]
    assert given == [r.answers[0].value for j, r in zip(jobs, together, strict=True) if j.task == "weather"]
