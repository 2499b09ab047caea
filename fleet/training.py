"""From assignments to evaluated expert artifacts in storage. Knows nothing of Ray or MLflow.

What is already in storage under an assignment's key is returned and not made again, and a checkpoint
under it is resumed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fleet.assignment import Assignment, TaskOutcome, outcome_name, stored_outcome
from fleet.baseline import tfidf_answers
from fleet.data.rows import Row
from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.base import BUILT_IN, Base, load_base, resolve_base
from fleet.engine.body import Body
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.evaluate import (
    Measured,
    answer_examples,
    fit_temperature,
    measure,
    measure_perplexity,
    row_losses,
)
from fleet.engine.expert import ExpertCard, golden_prompts, write_expert
from fleet.engine.prompt import Renderer, render_job, seal
from fleet.engine.specs import Example, TaskSpec, TextSpec
from fleet.engine.train import Progress, TrainResult, TrainTask, Validation, train_cohort
from fleet.errors import BaseError, FleetError, TrainingError
from fleet.manifest import Manifest
from fleet.recipe import examples, task_spec
from fleet.storage import Storage

log = logging.getLogger(__name__)

GOLDEN_PROMPTS = 3
VALIDATION_SHARE, VALIDATION_MOST = 0.1, 40
"""Rows held out of training for early stopping and calibration; evaluation rows serve neither."""


def rows_digest(rows: Sequence[Row]) -> str:
    """SHA-256 over evaluation rows, so that only scores on the same rows are compared."""
    content = [[row.fields, row.output] for row in rows]
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def train_assignments(
    assignments: Sequence[Assignment],
    *,
    base_name: str,
    storage: Storage,
    scratch: Path,
    cache_dir: Path,
    root: Path | None = None,
    threads: int | None = None,
    device: str = "cpu",
    checkpoint_seconds: float = 60.0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[TaskOutcome]:
    """Train the assignments as one cohort; an outcome for each, in their order, failures among them.

    ``root`` is where a relative base folder is looked for. Raises ``BaseError`` when there is no base.
    """
    done = {a.task: found for a in assignments if (found := stored_outcome(storage, a))}
    todo = [a for a in assignments if a.task not in done]
    if todo:
        if threads:
            torch.set_num_threads(threads)
        base = load_base(resolve_base(base_name, cache_dir, root=root), device=device)
        for assignment in todo:
            if assignment.base_fingerprint != base.fingerprint:
                raise BaseError(
                    f"this machine's base {base_name!r} is {base.fingerprint[:12]}, the command's is "
                    f"{assignment.base_fingerprint[:12]}: give all machines the same one, such as the "
                    "packaged weights, or a folder that all of them mount"
                )
        workshop = _Workshop(base, base_name, storage, scratch, on_progress)
        done.update((o.task, o) for o in workshop.train(todo, checkpoint_seconds))
    return [done[a.task] for a in assignments]


def _home(assignment: Assignment) -> str:
    return f"experts/{assignment.task}/{assignment.key}"


def split_validation(rows: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Rows to train on and rows to validate on, parted by a hash of their content."""

    def rank(example: Example) -> str:
        return hashlib.sha256(json.dumps(dict(example.fields), sort_keys=True).encode()).hexdigest()

    held = min(VALIDATION_MOST, max(1, round(len(rows) * VALIDATION_SHARE)))
    chosen = set(sorted(range(len(rows)), key=lambda i: rank(rows[i]))[:held])
    return (
        [row for i, row in enumerate(rows) if i not in chosen],
        [row for i, row in enumerate(rows) if i in chosen],
    )


@dataclass(frozen=True, slots=True)
class _Prepared:
    assignment: Assignment
    spec: TaskSpec
    train: list[Example]
    validation: list[Example]
    eval: list[Example]


class _Workshop:
    """One loaded base and what is done with it for the assignments of one cohort."""

    def __init__(
        self,
        base: Base,
        base_name: str,
        storage: Storage,
        scratch: Path,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.base = base
        # What other programs know it by: a built-in name means nothing to them.
        self.base_name = BUILT_IN[base_name].hub_id if base_name in BUILT_IN else base_name
        self.storage = storage
        self.scratch = scratch
        self.on_progress = on_progress
        self.compiler = ConstraintCompiler(base.tokenizer)

    def train(self, assignments: Sequence[Assignment], checkpoint_seconds: float) -> list[TaskOutcome]:
        prepared: dict[str, _Prepared] = {}
        outcomes: dict[str, TaskOutcome] = {}
        for assignment in assignments:
            try:
                made = _prepare(assignment, self.base.model.config.layers)
                self.compiler.start(made.spec.constraint)  # what it refuses should not be trained first
                prepared[assignment.task] = made
            except Exception as error:  # one task's failure is its own
                outcomes[assignment.task] = _failed(assignment, error)
        if prepared:
            for result in self._cohort(list(prepared.values()), checkpoint_seconds):
                outcomes[result.task] = self._finish(prepared[result.task], result)
        return [outcomes[a.task] for a in assignments]

    def _cohort(self, prepared: Sequence[_Prepared], checkpoint_seconds: float) -> list[TrainResult]:
        names = [f"checkpoints/{p.assignment.task}/{p.assignment.key}" for p in prepared]
        local = self.storage.local("checkpoints")
        folder = local or self.scratch / "checkpoints"
        if local is None:
            for name in names:
                if self.storage.exists(f"{name}/latest"):
                    self.storage.download(name, self.scratch / name)

        def publish() -> None:
            if local is None:
                for name in names:
                    if (self.scratch / name / "latest").exists():
                        self.storage.upload(self.scratch / name, name, last="latest")

        return train_cohort(
            self.base,
            [TrainTask(p.spec, p.train, self._validator(p), key=p.assignment.key) for p in prepared],
            checkpoint=folder,
            checkpoint_seconds=checkpoint_seconds,
            on_progress=self.on_progress,
            on_checkpoint=publish,
        )

    def _validator(self, p: _Prepared) -> Callable[[AdapterBank, int], Validation]:
        def validate(bank: AdapterBank, slot: int) -> Validation:
            losses, counts = row_losses(self.base, bank, slot, p.spec, p.validation)
            loss = float(losses.sum() / counts.sum())
            if p.spec.metric == "perplexity":
                value = measure_perplexity(losses, counts)
            else:
                given = answer_examples(self.base, bank, slot, p.spec, p.validation, self.compiler)
                value = measure(p.spec.metric, [row.output for row in p.validation], [c.value for c in given])
            return Validation(value.value, loss, value.higher_is_better)

        return validate

    def _finish(self, p: _Prepared, result: TrainResult) -> TaskOutcome:
        if result.adapter is None:
            return _failed(p.assignment, result.error or "the training gave no adapter", result)
        self.on_progress(_evaluating(p, result))
        started = time.monotonic()
        try:
            # What is evaluated is what will serve: weights rounded to the file's dtype.
            outcome = self._evaluate(p, result, result.adapter.as_stored(), started)
            self._publish(p.assignment, outcome)
        except Exception as error:  # one task's failure is its own
            log.exception("evaluation of %s failed", p.assignment.task)
            return _failed(p.assignment, error, result)
        return outcome

    def _evaluate(
        self, p: _Prepared, result: TrainResult, adapter: Adapter | Body, started: float
    ) -> TaskOutcome:
        base, spec = self.base, p.spec
        bank = AdapterBank.alone(base.model, adapter)
        temperature = self._calibrate(p, bank)
        measured, table, baseline = self._measure(p, bank, temperature)
        artifact = f"{_home(p.assignment)}/artifact"
        folder = self.scratch / artifact
        shutil.rmtree(folder, ignore_errors=True)
        digest_of_rows = rows_digest(p.assignment.rows.eval)
        metrics = {
            "value": measured.value,
            "low": measured.low,
            "high": measured.high,
            "rows": len(measured.rows),
            **({} if baseline is None else {"baseline": baseline.value}),
        }
        tags = {
            "training_key": p.assignment.key,
            "manifest_digest": Manifest.model_validate(p.assignment.manifest).digest,
            "data_digest": p.assignment.rows.digest,
            "base_fingerprint": base.fingerprint,
            "seal": seal(Renderer.of(base.tokenizer), spec),
        }
        card = ExpertCard(
            task=spec.name,
            manifest=p.assignment.manifest,
            manifest_digest=tags["manifest_digest"],
            data_digest=tags["data_digest"],
            base_fingerprint=tags["base_fingerprint"],
            seal=tags["seal"],
            temperature=temperature,
            metrics={
                **metrics,
                "metric": spec.metric,
                "rows_digest": digest_of_rows,
                "scores": list(measured.rows),
            },
            golden=golden_prompts(
                base, bank, 0, spec, [render_job(spec.prompt, e.fields) for e in p.eval[:GOLDEN_PROMPTS]]
            ),
        )
        digest = write_expert(folder, adapter, card, self.base_name)
        return TaskOutcome(
            task=spec.name,
            key=p.assignment.key,
            artifact=artifact,
            digest=digest,
            error=None,
            metrics={
                spec.metric: measured.value,
                f"{spec.metric}_low": measured.low,
                f"{spec.metric}_high": measured.high,
                **({} if baseline is None else {f"baseline_{spec.metric}": baseline.value}),
                "temperature": temperature,
                "train_rows": float(len(p.train)),
                "validation_rows": float(len(p.validation)),
                "eval_rows": float(len(p.eval)),
                "steps": float(result.steps),
                "tokens": float(result.tokens),
                "train_seconds": result.seconds,
                "evaluation_seconds": time.monotonic() - started,
            },
            params=_flat({**p.assignment.manifest, "schema": None, "data": None, "routing": None}),
            curves=result.curves,
            table=table,
            tags={
                **tags,
                "device": base.model.device,
                "computed_in": "bf16" if base.model.dtype == torch.bfloat16 else "fp32",
                "metric": spec.metric,
            },
            scores=list(measured.rows),
            baseline_scores=[] if baseline is None else list(baseline.rows),
            rows_digest=digest_of_rows,
            seconds=result.seconds + time.monotonic() - started,
            tokens=result.tokens,
            resumed=result.resumed,
        )

    def _calibrate(self, p: _Prepared, bank: AdapterBank) -> float:
        if isinstance(p.spec.constraint, TextSpec):
            return 1.0
        given = answer_examples(self.base, bank, 0, p.spec, p.validation, self.compiler)
        return fit_temperature(
            given, [c.value == row.output for c, row in zip(given, p.validation, strict=True)]
        )

    def _measure(
        self, p: _Prepared, bank: AdapterBank, temperature: float
    ) -> tuple[Measured, list[dict[str, Any]], Measured | None]:
        """The metric on the evaluation rows, a table of them, and the baseline's metric if there is one."""
        spec = p.spec
        jobs = [render_job(spec.prompt, example.fields) for example in p.eval]
        wanted = [example.output for example in p.eval]
        completions = answer_examples(
            self.base, bank, 0, spec, p.eval, self.compiler, temperature=temperature
        )
        given = [completion.value for completion in completions]
        if spec.metric == "perplexity":
            measured = measure_perplexity(*row_losses(self.base, bank, 0, spec, p.eval))
        else:
            measured = measure(spec.metric, wanted, given)
        table = [
            {
                "job": job,
                "wanted": _shown(want),
                "given": _shown(completion.value),
                "score": score,
                "confidence": round(completion.confidence, 4),
                "truncated": completion.truncated,
            }
            for job, want, completion, score in zip(jobs, wanted, completions, measured.rows, strict=True)
        ]
        if p.assignment.manifest["kind"] != "classification":
            return measured, table, None
        taught = [*p.train, *p.validation]
        answers = tfidf_answers(
            [render_job(spec.prompt, example.fields) for example in taught],
            [example.output for example in taught],
            jobs,
        )
        return measured, table, measure(spec.metric, wanted, answers)

    def _publish(self, assignment: Assignment, outcome: TaskOutcome) -> None:
        """Artifact first, outcome last: without the outcome the training counts as not done."""
        self.storage.upload(self.scratch / outcome.artifact, outcome.artifact)
        self.storage.write_text(outcome_name(assignment.task, assignment.key), json.dumps(asdict(outcome)))
        # All of the task: those of manifests and rows that were given up are of no use to anybody.
        self.storage.remove(f"checkpoints/{assignment.task}")


def _prepare(assignment: Assignment, layers: int) -> _Prepared:
    spec = task_spec(Manifest.model_validate(assignment.manifest))
    if spec.adapter.layers[1] > layers:
        raise TrainingError(
            f"adapter.layers: {list(spec.adapter.layers)} reaches beyond the base's {layers} layers: "
            f"end it at {layers}"
        )
    train, validation = split_validation(examples(assignment.rows.train))
    return _Prepared(assignment, spec, train, validation, examples(assignment.rows.eval))


def _failed(assignment: Assignment, error: Exception | str, result: TrainResult | None = None) -> TaskOutcome:
    text = str(error) if isinstance(error, str | FleetError) else f"{type(error).__name__}: {error}"
    outcome = TaskOutcome(assignment.task, assignment.key, "", "", text)
    if result is None:
        return outcome
    return replace(outcome, curves=result.curves, seconds=result.seconds, tokens=result.tokens)


def _evaluating(p: _Prepared, result: TrainResult) -> Progress:
    loss = result.curves["loss"][-1][1] if result.curves.get("loss") else float("nan")
    metric = result.best.metric if result.best else float("nan")
    epochs = len(result.curves.get("validation_metric", ()))
    return Progress(
        p.spec.name, "evaluating", result.steps, result.steps, epochs, loss, metric, 0.0, float("nan")
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names, for the run's params."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat
