"""The device computes what the CPU computes in fp32; nothing is worth timing before that.

One small batch of several experts, ranks, layer ranges and the bare base, by every way of adding adapters:
last hidden states, gradients of the adapters, and answers through the scheduler.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.bench import Report
from benchmarks.on_device.products import ways
from benchmarks.on_device.subject import Answering, Job, Subject, fill, random_jobs, random_weights
from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.batch import Batch
from fleet.engine.decode import Scheduler
from fleet.engine.gemma import Gemma
from fleet.engine.loss import head_loss
from fleet.engine.specs import LoraSpec
from fleet.engine.trunk import run_trunk

EXACT = 2e-3
"""Largest relative difference of fp32 results, as a norm; tf32 would give more."""
ROUNDED = 5e-2
"""Of bf16 activations against fp32, through all layers."""
WAYS = ("one by one", "gathered")
SLOTS = (-1, 0, 0, 1, 2, 2, 2, 3)
"""The last slot is empty."""
TEXT_TOKENS = 4


def check(subject: Subject, report: Report) -> None:
    """Fill the report; whatever differs by more than it may is a failure."""
    size, device = subject.size, subject.model.device
    weights = random_weights(size.config, device, 0)
    exact = {name: weight.float() for name, weight in weights.items()}
    models = {
        "fp32": Gemma(size.config, exact),
        "bf16": Gemma(size.config, weights),
    }
    reference = Gemma(size.config, {name: weight.cpu() for name, weight in exact.items()})
    adapters = _adapters(subject)
    wanted, gradients = _run(subject, reference, adapters, WAYS[0])
    for dtype, model in models.items():
        for way in WAYS:
            got, found = _run(subject, model, adapters, way)
            allowed = EXACT if dtype == "fp32" else ROUNDED
            _compare(report, f"hidden states, {dtype}, {way}", got, wanted, allowed)
            _compare(report, f"gradients, {dtype}, {way}", _flat(found), _flat(gradients), 2 * allowed)
    mine, theirs = (_answers(subject, model, adapters) for model in (models["fp32"], reference))
    same = sum(a == b for a, b in zip(mine, theirs, strict=True))
    report.rows.append({"what": "answers that differ, fp32", "got": len(mine) - same, "allowed": 0})
    if same < len(mine):
        report.failures.append(f"{len(mine) - same} of {len(mine)} answers differ")


def _adapters(subject: Subject) -> list[Adapter]:
    """Three random ones, of the full rank, of half of it, and on the upper layers alone; rounded to bf16."""
    size = subject.size
    first, last = size.lora.layers
    loras = (
        size.lora,
        LoraSpec(size.lora.rank // 2, size.lora.alpha, (first, last)),
        LoraSpec(size.lora.rank, size.lora.alpha, (first + 1, last)),
    )
    bank = AdapterBank(size.config, 1, size.lora.rank, size.lora.layers, dtype=torch.bfloat16)
    made = []
    for seed, lora in enumerate(loras):
        fill(bank, 0, lora, torch.Generator().manual_seed(seed))
        adapter = bank.adapter(0)
        assert isinstance(adapter, Adapter)
        made.append(adapter)
    return made


def _bank(model: Gemma, adapters: list[Adapter], *, trainable: bool = False) -> AdapterBank:
    rank = max(adapter.lora.rank for adapter in adapters)
    layers = (min(a.lora.layers[0] for a in adapters), max(a.lora.layers[1] for a in adapters))
    dtype = torch.float32 if trainable else model.dtype
    bank = AdapterBank(model.config, len(adapters) + 1, rank, layers, dtype=dtype, device=model.device)
    for slot, adapter in enumerate(adapters):
        bank.occupy(slot, adapter.lora, trainable=trainable)
        with torch.no_grad():
            for name, matrix in bank.parameters(slot).items():
                matrix.copy_(adapter.tensors[name])
    return bank


def _run(
    subject: Subject, model: Gemma, adapters: list[Adapter], way: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Normed last hidden states of the batch, and the gradients of a loss on them; on the host in fp32."""
    jobs = random_jobs(subject.size, len(SLOTS), 1)
    ids = torch.tensor([i for job in jobs for i in job.ids], device=model.device)
    batch = Batch.of([len(job.ids) for job in jobs], device=model.device)
    bank = _bank(model, adapters, trainable=True)
    chosen = ways(bank, SLOTS, batch, model.dtype)[way]
    h = model.run(model.embed(ids), batch, (0, model.config.layers), adapters=chosen, keep=batch.last)
    h = model.norm(h)
    targets = torch.arange(len(SLOTS), device=model.device)
    head_loss(model, h, targets, torch.arange(64, device=model.device)).backward()
    leaves = {f"{i} {n}": t.grad for i in range(len(adapters)) for n, t in bank.parameters(i).items()}
    return h.detach().float().cpu(), {n: g.float().cpu() for n, g in leaves.items() if g is not None}


def _answers(subject: Subject, model: Gemma, adapters: list[Adapter]) -> list[str]:
    """Labels and short texts of the same jobs, mixed in one batch; both spell the ids of their tokens."""
    bank, answering = _bank(model, adapters), Answering(subject.size)
    jobs = [
        Job(job.ids, SLOTS[number % len(SLOTS)])
        for number, job in enumerate(random_jobs(subject.size, 2 * len(SLOTS), 1))
    ]
    states = run_trunk(model, subject.size.depth, [job.ids for job in jobs])
    requests = [
        answering.request(number, job, state, TEXT_TOKENS * (number % 2))
        for number, (job, state) in enumerate(zip(jobs, states, strict=True))
    ]
    done = Scheduler(model, bank, subject.size.depth, max_rows=len(SLOTS)).run(requests)
    return [completion.error or completion.text for completion in done]


def _compare(report: Report, what: str, got: Tensor, wanted: Tensor, allowed: float) -> None:
    error = float((got - wanted).norm() / wanted.norm())
    report.rows.append({"what": what, "got": error, "allowed": allowed})
    if not error <= allowed:  # NaN is not
        report.failures.append(f"{what}: {error:.2g}, allowed {allowed:g}")


def _flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])
