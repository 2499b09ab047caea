"""The training loop: a cohort is its tasks alone, and an interrupted run is an uninterrupted one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fleet.engine.adapters import AdapterBank
from fleet.engine.base import Base, load_base
from fleet.engine.body import Body
from fleet.engine.evaluate import row_losses
from fleet.engine.specs import (
    Example,
    FullSpec,
    LabelSpec,
    LoraSpec,
    PromptSpec,
    TaskSpec,
    TextSpec,
    TrainSpec,
)
from fleet.engine.train import Progress, TrainResult, TrainTask, Validation, train_cohort

COHORT_TOLERANCE = 2e-5
"""Largest difference of any adapter value in fp32: a cohort's matrix products have other shapes."""


@pytest.fixture(scope="module")
def base(tiny_base_folder: Path) -> Base:
    return load_base(tiny_base_folder, dtype=torch.float32)


def make_task(
    base: Base,
    name: str,
    *,
    rank: int = 4,
    full: tuple[int, int] | None = None,
    seed: int = 0,
    epochs: int = 3,
    patience: int = 9,
) -> TrainTask:
    labels = ("good", "bad", "so so")
    constraint = TextSpec() if name == "story" else LabelSpec(labels)
    spec = TaskSpec(
        name,
        PromptSpec(suffix=f"\n\n{name}:"),
        constraint,
        "perplexity" if name == "story" else "accuracy",
        FullSpec(full) if full else LoraSpec(rank, 2.0 * rank, (2, 6)),
        TrainSpec(
            epochs=epochs,
            learning_rate=1e-3 if full else 1e-2,
            batch_tokens=160,
            seed=seed,
            patience=patience,
        ),
    )
    rows = [
        Example({"text": f"{name} number {i} is {labels[i % 3]}" + " indeed" * (i % 5)}, labels[i % 3])
        for i in range(17)
    ]

    def validate(bank: AdapterBank, slot: int) -> Validation:
        losses, counts = row_losses(base, bank, slot, spec, rows[:4])
        return Validation(0.0, float(losses.sum() / counts.sum()))

    return TrainTask(spec, rows, validate)


def difference(one: TrainResult, other: TrainResult) -> float:
    assert one.adapter is not None
    assert other.adapter is not None
    return max(
        float((t - other.adapter.tensors[name]).abs().max()) for name, t in one.adapter.tensors.items()
    )


def test_three_tasks_in_a_cohort_are_three_solo_runs(base: Base) -> None:
    tasks = [
        make_task(base, "mood", rank=4, seed=1),
        make_task(base, "story", rank=2, seed=2, epochs=2),
        make_task(base, "taste", rank=8, seed=3),
    ]
    together = train_cohort(base, tasks, micro_tokens=300)
    for task, in_company in zip(tasks, together, strict=True):
        (alone,) = train_cohort(base, [task])
        assert in_company.steps == alone.steps
        assert difference(alone, in_company) < COHORT_TOLERANCE
        assert alone.curves["loss"][-1][1] < alone.curves["loss"][0][1]


def test_lora_and_full_tasks_in_a_cohort_are_solo_runs(base: Base) -> None:
    tasks = [
        make_task(base, "mood", rank=4, seed=1),
        make_task(base, "taste", full=(2, 6), seed=2),
        make_task(base, "story", full=(3, 6), seed=3, epochs=2),
        make_task(base, "fit", rank=2, seed=4),
    ]
    before = base.model.own_weights((0, 6))
    frozen = {name: t.clone() for name, t in before.items()}
    together = train_cohort(base, tasks, micro_tokens=300)
    for task, in_company in zip(tasks, together, strict=True):
        (alone,) = train_cohort(base, [task])
        assert in_company.steps == alone.steps
        assert difference(alone, in_company) < COHORT_TOLERANCE
        assert alone.curves["loss"][-1][1] < alone.curves["loss"][0][1]
    assert all(torch.equal(t, frozen[name]) for name, t in base.model.own_weights((0, 6)).items())


def test_full_training_learns_what_its_rows_say(base: Base) -> None:
    (result,) = train_cohort(base, [make_task(base, "taste", full=(2, 6), epochs=12)])
    losses = [loss for _, loss in result.curves["validation_loss"]]
    assert losses[-1] < 0.2 * losses[0]
    assert isinstance(result.adapter, Body)
    assert result.adapter.full == FullSpec((2, 6))
    moved = [
        float((t - base.model.own_weights((2, 6))[name]).abs().max())
        for name, t in result.adapter.tensors.items()
    ]
    assert min(moved) > 0


def test_the_same_run_twice_is_the_same_bit_for_bit(base: Base) -> None:
    one, other = (train_cohort(base, [make_task(base, "mood")])[0] for _ in range(2))
    assert difference(one, other) == 0.0


class Stop(BaseException):
    """Stands for a kill: nothing after it runs, no last checkpoint is written."""


@pytest.mark.parametrize("stop_at", [1, 5, 9])
@pytest.mark.parametrize("full", [None, (2, 6)], ids=["lora", "full"])
def test_a_killed_run_resumes_to_the_very_same_adapters(
    base: Base, tmp_path: Path, stop_at: int, full: tuple[int, int] | None
) -> None:
    tasks = [make_task(base, "mood", seed=1), make_task(base, "taste", full=full, seed=3)]
    whole = train_cohort(base, tasks)

    def kill(progress: Progress) -> None:
        if progress.task == "taste" and progress.step == stop_at and progress.state == "training":
            raise Stop

    with pytest.raises(Stop):
        train_cohort(base, tasks, checkpoint=tmp_path, checkpoint_seconds=0, on_progress=kill)
    seen: list[Progress] = []
    resumed = train_cohort(base, tasks, checkpoint=tmp_path, on_progress=seen.append)
    assert next(p.step for p in seen if p.task == "taste") == stop_at - 1
    for one, other in zip(whole, resumed, strict=True):
        assert difference(one, other) == 0.0
        assert one.curves == other.curves


def test_ctrl_c_leaves_a_checkpoint(base: Base, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt

    task = make_task(base, "mood")
    with pytest.raises(KeyboardInterrupt):
        train_cohort(base, [task], checkpoint=tmp_path, on_progress=interrupt)
    (resumed,) = train_cohort(base, [task], checkpoint=tmp_path)
    (whole,) = train_cohort(base, [task])
    assert difference(whole, resumed) == 0.0


@pytest.mark.parametrize("full", [None, (2, 6)], ids=["lora", "full"])
def test_what_is_validated_is_what_its_files_will_hold(base: Base, full: tuple[int, int] | None) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def validate(bank: AdapterBank, slot: int) -> Validation:
        seen.append({name: t.detach().clone() for name, t in bank.parameters(slot).items()})
        return Validation(0.5, 1.0)

    task = replace(make_task(base, "mood", full=full, epochs=1), validate=validate)
    (result,) = train_cohort(base, [task])
    assert result.adapter is not None
    (validated,) = seen
    trained, stored = result.adapter.tensors, result.adapter.as_stored().tensors
    assert any(not torch.equal(trained[name].float(), t.float()) for name, t in stored.items())
    for name, t in stored.items():
        assert torch.equal(validated[name].float(), t.float())


def test_one_failing_task_stops_no_other(base: Base) -> None:
    broken = make_task(base, "broken")
    broken = replace(broken, train=[*broken.train, Example({"text": "x"}, "no such label")])
    exploding = make_task(base, "exploding")
    exploding = replace(
        exploding, spec=replace(exploding.spec, train=replace(exploding.spec.train, learning_rate=1e30))
    )

    def failing(bank: AdapterBank, slot: int) -> Validation:
        raise RuntimeError("no disk")

    blind = replace(make_task(base, "blind"), validate=failing)
    fine = make_task(base, "fine")
    results = {r.task: r for r in train_cohort(base, [broken, exploding, blind, fine])}
    assert "no such label" in str(results["broken"].error)
    assert "learning_rate" in str(results["exploding"].error)
    assert "no disk" in str(results["blind"].error)
    assert results["fine"].error is None
    (alone,) = train_cohort(base, [fine])
    assert difference(alone, results["fine"]) < COHORT_TOLERANCE


def test_patience_ends_a_task_and_the_best_adapter_is_kept(base: Base) -> None:
    scores = iter([0.5, 0.7, 0.6, 0.6, 0.9])
    task = replace(
        make_task(base, "mood", epochs=5, patience=2),
        validate=lambda bank, slot: Validation(next(scores), 1.0),
    )
    (result,) = train_cohort(base, [task])
    assert [round(v, 1) for _, v in result.curves["validation_metric"]] == [0.5, 0.7, 0.6, 0.6]
    assert result.best is not None
    assert result.best.metric == 0.7
