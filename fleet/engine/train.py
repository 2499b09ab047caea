"""The one training loop: a cohort of tasks over one frozen base, each as if it were alone.

Every optimiser step takes the next batch of every task that still runs, packs the rows into
micro-batches of similar length and lets each slot's gradient flow into its own parameters: LoRA tasks
share a pass, a full one has layers and a pass of its own. Learning rate, clipping, AdamW state, data order,
early stopping and failure are per task. The frozen layers below the first adapted one are computed once
per row and kept. Knows nothing of manifests, Ray or MLflow.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.base import Base
from fleet.engine.batch import Batch
from fleet.engine.body import Body
from fleet.engine.checkpoint import load_checkpoint, save_checkpoint
from fleet.engine.frozen_rows import MICRO_TOKENS, FrozenRows
from fleet.engine.loss import head_loss
from fleet.engine.member import Member
from fleet.engine.prompt import Renderer, predicting
from fleet.engine.specs import Example, FullSpec, LoraSpec, TaskSpec
from fleet.engine.trunk import batches
from fleet.errors import TrainingError

log = logging.getLogger(__name__)

BETAS = (0.9, 0.999)
SAVING_APART = 10
"""Between two checkpoints of an epoch lies at least so many times as long as the last one took."""


@dataclass(frozen=True, slots=True)
class TrainTask:
    """One task of a cohort; ``validate`` says how good the adapter in a bank's slot is on held-out rows.

    What it is given is the adapter as it would serve: rounded as its files are, in the base's dtype.
    """

    spec: TaskSpec
    train: Sequence[Example]
    validate: Callable[[AdapterBank, int], Validation]
    key: str = ""
    """What makes this training this one; part of the checkpoint's place."""

    @property
    def checkpoint_name(self) -> str:
        return f"{self.spec.name}/{self.key}" if self.key else self.spec.name


@dataclass(frozen=True, slots=True)
class Validation:
    """``metric`` is the task's own, in its own direction; ``loss`` breaks ties (mean nats per token)."""

    metric: float
    loss: float
    higher_is_better: bool = True

    def better_than(self, other: Validation | None) -> bool:
        if other is None:
            return True
        mine, theirs = (self.metric, other.metric) if self.higher_is_better else (-self.metric, -other.metric)
        return (mine, -self.loss) > (theirs, -other.loss)


@dataclass(frozen=True, slots=True)
class Progress:
    """What one task of the cohort is doing now; ``tokens_per_second`` is the cohort's."""

    task: str
    state: Literal["preparing", "training", "validating", "evaluating", "done", "failed"]
    step: int
    steps: int
    epoch: int
    loss: float
    metric: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class TrainResult:
    """One task's outcome: the best adapter by validation, or the error that ended it."""

    task: str
    adapter: Adapter | Body | None
    best: Validation | None
    curves: dict[str, list[tuple[int, float]]]
    steps: int
    tokens: int
    seconds: float
    error: str | None = None
    resumed: bool = False
    """Whether it went on from a checkpoint."""


def train_cohort(
    base: Base,
    tasks: Sequence[TrainTask],
    *,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_checkpoint: Callable[[], None] = lambda: None,
    micro_tokens: int = MICRO_TOKENS,
) -> list[TrainResult]:
    """Train every task; results in the order given, failures among them (one never stops another).

    ``checkpoint`` is a folder that is read at the start, if something is in it, and written every
    ``checkpoint_seconds`` (more rarely where writing takes more than a tenth of that) and at each epoch's
    end; a run killed and started again with the same arguments gives the same adapters as one that was
    not, bit for bit on processors that compute alike (``fleet.engine.precision``). ``KeyboardInterrupt``
    leaves a fresh checkpoint behind.

    Raises ``TrainingError`` when no task can be trained at all, such as for a checkpoint of other tasks.
    """
    if len({task.spec.name for task in tasks}) != len(tasks):
        raise TrainingError("the tasks of a cohort must have different names")
    return _Cohort(
        base, tasks, checkpoint, checkpoint_seconds, on_progress, on_checkpoint, micro_tokens
    ).run()


class _Cohort:
    def __init__(
        self,
        base: Base,
        tasks: Sequence[TrainTask],
        checkpoint: Path | None,
        checkpoint_seconds: float,
        on_progress: Callable[[Progress], None],
        on_checkpoint: Callable[[], None],
        micro_tokens: int,
    ) -> None:
        self.model = base.model
        self.tasks = tasks
        self.checkpoint = checkpoint
        self.checkpoint_seconds = checkpoint_seconds
        self.on_progress = on_progress
        self.on_checkpoint = on_checkpoint
        self.micro_tokens = micro_tokens
        self.first = min(task.spec.adapter.layers[0] for task in tasks)
        top = max(task.spec.adapter.layers[1] for task in tasks)
        self.bank = AdapterBank(
            base.model.config,
            len(tasks),
            max((t.spec.adapter.rank for t in tasks if isinstance(t.spec.adapter, LoraSpec)), default=0),
            (self.first, top),
            dtype=torch.float32,
            device=base.model.device,
        )
        self.trunk = FrozenRows(base.model, self.first)
        renderer = Renderer.of(base.tokenizer)
        self.members = [self._member(slot, task, renderer) for slot, task in enumerate(tasks)]
        self.rate = 0.0

    def _member(self, slot: int, task: TrainTask, renderer: Renderer) -> Member:
        spec = task.spec
        if isinstance(spec.adapter, FullSpec):
            self.bank.train_body(slot, Body.of(self.model, spec.adapter))
        else:
            self.bank.initialise(slot, spec.adapter, spec.train.seed)
        optimiser = torch.optim.AdamW(
            list(self.bank.parameters(slot).values()),
            lr=spec.train.learning_rate,
            betas=BETAS,
            weight_decay=spec.train.weight_decay,
        )
        member = Member(spec, slot, optimiser)
        member.render(task.train, renderer, self.model.device)
        return member

    def run(self) -> list[TrainResult]:
        self._resume()
        for member in self.members:
            if member.running:
                self.trunk.prepare(member.slot, member.rows)
        due = time.monotonic() + self.checkpoint_seconds
        try:
            while any(member.running for member in self.members):
                epoch_ended = self._end_epochs()
                started = time.monotonic()
                if epoch_ended or started > due:
                    self._save()
                    saved = time.monotonic()
                    # A full adapter's checkpoint is a gigabyte: on a slow store it is written less often.
                    due = saved + max(self.checkpoint_seconds, SAVING_APART * (saved - started))
                self._step()
        except KeyboardInterrupt:
            self._save()
            raise
        return [self._result(member) for member in self.members]

    def _step(self) -> None:
        """One optimiser step of every running task."""
        started = time.monotonic()
        active = [member for member in self.members if member.running]
        if not active:
            return
        work = [(member, index) for member in active for index in member.batch]
        losses = self._gradients(active, work)
        seconds = time.monotonic() - started
        tokens = sum(len(member.rows[index].ids) for member, index in work)
        self.rate = tokens / seconds if not self.rate else 0.8 * self.rate + 0.2 * tokens / seconds
        for member in active:
            self._update(member, losses[member.slot], seconds / len(active))

    def _gradients(self, active: Sequence[Member], work: Sequence[tuple[Member, int]]) -> dict[int, float]:
        """Accumulate each task's gradient of its mean loss per supervised token; those means in nats."""
        counts = {
            member.slot: sum(member.rows[i].supervised for m, i in work if m is member) for member in active
        }
        losses = dict.fromkeys(counts, 0.0)
        lengths = [len(member.rows[index].ids) for member, index in work]
        for chunk in batches(lengths, self.micro_tokens):
            passes: dict[int, list[tuple[Member, int]]] = {}
            for member, index in sorted((work[i] for i in chunk), key=lambda item: (item[0].slot, item[1])):
                passes.setdefault(self.bank.pass_of(member.slot), []).append((member, index))
            for rows in passes.values():
                total = torch.zeros((), device=self.model.device)
                for slot, loss in self._losses(rows).items():
                    total = total + loss / counts[slot]
                    losses[slot] += float(loss.detach()) / counts[slot]
                total.backward()
        return losses

    def _losses(self, rows: Sequence[tuple[Member, int]]) -> dict[int, Tensor]:
        """Summed loss of each task's supervised tokens in one pass; LoRA rows alone, or one body's."""
        model = self.bank.model(self.model, rows[0][0].slot)
        tokens = [member.rows[index] for member, index in rows]
        batch = Batch.of([len(row.ids) for row in tokens], device=self.model.device)
        h = self.trunk.states(
            [((member.slot, index), row) for (member, index), row in zip(rows, tokens, strict=True)]
        )
        adapters = self.bank.select([member.slot for member, _ in rows], batch, dtype=model.dtype)
        targets: dict[int, list[int]] = {}
        for (member, _), row in zip(rows, tokens, strict=True):
            targets.setdefault(member.slot, []).extend(row.ids[row.supervised_from :])
        h = model.run(
            h,
            batch,
            (self.first, model.config.layers),
            adapters=adapters,
            keep=torch.tensor(predicting(tokens), device=h.device),
        )
        vocabularies = {member.slot: member.vocabulary for member, _ in rows}
        parts = model.norm(h).split([len(wanted) for wanted in targets.values()])
        return {
            slot: head_loss(model, part, torch.tensor(wanted, device=h.device), vocabularies[slot])
            for (slot, wanted), part in zip(targets.items(), parts, strict=True)
        }

    def _update(self, member: Member, loss: float, seconds: float) -> None:
        parameters = list(self.bank.parameters(member.slot).values())
        norm = torch.nn.utils.clip_grad_norm_(parameters, member.spec.train.max_grad_norm)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            what = "gradient" if math.isfinite(loss) else "loss"
            member.error = (
                f"the {what} overflowed at step {member.state.step} (loss {loss:.4g}); "
                "lower training.learning_rate"
            )
            self._report(member, "failed")
            return
        for group in member.optimiser.param_groups:
            group["lr"] = member.learning_rate
        state = member.state
        member.torn = True
        member.optimiser.step()
        member.optimiser.zero_grad(set_to_none=True)  # a body's would be held through validation
        state.step += 1
        state.tokens += sum(len(member.rows[i].ids) for i in member.batch)
        state.seconds += seconds
        state.position += 1
        state.curve("loss", loss)
        state.curve("grad_norm", float(norm))
        member.torn = False
        self._report(member, "training")

    def _end_epochs(self) -> bool:
        """Validate the tasks that are at the end of an epoch; whether there were any."""
        due = [member for member in self.members if member.running and member.epoch_ended]
        for member in due:
            self._validate(member)
        return bool(due)

    def _validate(self, member: Member) -> None:
        """Score the adapter, keep it if it is the best so far, and maybe stop the task."""
        state = member.state
        self._report(member, "validating")
        started = time.monotonic()
        adapter = self.bank.adapter(member.slot)
        try:
            score = self.tasks[member.slot].validate(AdapterBank.alone(self.model, adapter.as_stored()), 0)
        except Exception as error:  # one task's failing validation is that task's failure
            log.exception("validation of %s failed", member.spec.name)
            member.error = f"validation failed: {type(error).__name__}: {error}"
            self._report(member, "failed")
            return
        member.torn = True
        state.seconds += time.monotonic() - started
        state.curve("validation_metric", score.metric)
        state.curve("validation_loss", score.loss)
        best = None if state.best is None else Validation(*state.best, score.higher_is_better)
        if score.better_than(best):
            state.best = (score.metric, score.loss)
            state.best_tensors = dict(adapter.tensors)
            state.stale = 0
        else:
            state.stale += 1
        state.epoch += 1
        state.position = 0
        state.finished = state.epoch == len(member.plan) or state.stale >= member.spec.train.patience
        member.torn = False
        self._report(member, "done" if state.finished else "training")

    def _report(
        self, member: Member, what: Literal["preparing", "training", "validating", "done", "failed"]
    ) -> None:
        state = member.state
        left = sum(m.left[m.state.step] for m in self.members if m.running)
        self.on_progress(
            Progress(
                task=member.spec.name,
                state=what,
                step=state.step,
                steps=member.steps,
                epoch=state.epoch,
                loss=state.latest("loss"),
                metric=state.latest("validation_metric"),
                tokens_per_second=self.rate,
                seconds_left=left / self.rate if self.rate else math.nan,
            )
        )

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        save_checkpoint(
            self.checkpoint,
            {
                task.checkpoint_name: (m.state, self.bank.parameters(m.slot), m.optimiser)
                for task, m in zip(self.tasks, self.members, strict=True)
                if not m.error and not m.torn
            },
        )
        self.on_checkpoint()

    def _resume(self) -> None:
        if self.checkpoint is not None:
            for task, member in zip(self.tasks, self.members, strict=True):
                found = load_checkpoint(
                    self.checkpoint,
                    task.checkpoint_name,
                    self.bank.parameters(member.slot),
                    member.optimiser,
                )
                if found is not None:
                    member.state = found
                    member.resumed = True
        for member in self.members:
            self._report(
                member, "failed" if member.error else "done" if member.state.finished else "preparing"
            )

    def _result(self, member: Member) -> TrainResult:
        state, spec = member.state, member.spec
        adapter: Adapter | Body | None = None
        if member.error is None and state.best_tensors is not None:
            if isinstance(spec.adapter, FullSpec):
                adapter = Body(spec.adapter, state.best_tensors)
            else:
                adapter = Adapter(spec.adapter, state.best_tensors)
        best = None if state.best is None else Validation(*state.best)
        return TrainResult(
            spec.name,
            adapter,
            best,
            state.curves,
            state.step,
            state.tokens,
            state.seconds,
            member.error,
            member.resumed,
        )
