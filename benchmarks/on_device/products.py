"""One layer's adapters by three ways: adapter by adapter, gathered into tiles, torch's grouped product."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.bench import Report
from benchmarks.on_device.size import Size
from benchmarks.on_device.subject import Subject, fill
from fleet.engine.adapters import AdapterBank, Slots, _groups
from fleet.engine.batch import Batch
from fleet.engine.gathered import Gathered, Stacks
from fleet.engine.gemma import Adapting
from fleet.engine.specs import LORA_TARGETS

Call = Callable[[], object]
ROUNDING = 1e-2
"""Largest relative difference between two ways in bf16."""


def measure(subject: Subject, report: Report, time_left: Callable[[], float]) -> None:
    """Milliseconds for the seven targets of one layer, and for them with their gradients."""
    for groups, tokens in subject.size.products:
        if time_left() < 0:
            report.notes.append(f"not measured for want of time: {groups} adapters of {tokens} tokens")
            continue
        for training in (False, True) if groups <= max(subject.size.cohorts) else (False,):
            report.rows.append(_row(subject, report, groups, tokens, training))
            print(report.rows[-1], flush=True)


def _row(
    subject: Subject, report: Report, groups: int, tokens: int, training: bool
) -> dict[str, int | float | str | None]:
    size, model = subject.size, subject.model
    dtype = torch.float32 if training else model.dtype
    bank = AdapterBank(
        size.config, groups, size.lora.rank, size.lora.layers, dtype=dtype, device=model.device
    )
    generator = torch.Generator(model.device).manual_seed(0)
    for slot in range(groups):
        if training:
            bank.initialise(slot, size.lora, slot)
        else:
            fill(bank, slot, size.lora, generator)
    batch = Batch.of([tokens] * groups, device=model.device)
    slots = list(range(groups))
    every = ways(bank, slots, batch, model.dtype)
    if hasattr(torch, "_grouped_mm") and not training:
        every["grouped"] = Grouped.of(stacks(bank), slots, batch)
    data: dict[str, tuple[Tensor, Tensor]] = {}
    first: Sequence[Tensor] = ()

    def call(way: Adapting) -> list[Tensor]:
        with torch.set_grad_enabled(training):
            outs = [way.add(size.depth, target, *data[target]) for target in LORA_TARGETS]
        if training:
            torch.autograd.backward(outs, [y for _, y in data.values()])
        return [out.detach() for out in outs]

    row: dict[str, int | float | str | None] = {
        "adapters": groups,
        "tokens each": tokens,
        "gradients": "yes" if training else "no",
    }
    for name in ("one by one", "gathered", "grouped"):
        row[f"{name} ms"] = None
        if name in every:
            data = _data(size, groups * tokens, model.device, model.dtype)  # a way may write into ``y``
            outs = call(every[name])
            first = first or [out.clone() for out in outs]
            error = max(float((a - b).norm() / b.norm()) for a, b in zip(outs, first, strict=True))
            if not error < ROUNDING:
                report.failures.append(f"{groups} x {tokens}, {name}: differs by {error:.2g}")
            row[f"{name} ms"] = 1000 * seconds(partial(call, every[name]), size.seconds)
    return row


def ways(bank: AdapterBank, rows: Sequence[int], batch: Batch, dtype: torch.dtype) -> dict[str, Adapting]:
    """The same adapters by both of the engine's ways; the bank would choose by its own rule."""
    return {
        "one by one": Slots(bank, tuple(rows), _groups(rows, batch), dtype),
        "gathered": Gathered.of(stacks(bank), rows, batch, dtype=dtype),
    }


def stacks(bank: AdapterBank) -> Stacks:
    return Stacks(bank._a, bank._b, bank._views, bank.loras)


@dataclass(frozen=True, slots=True)
class Grouped:
    """``torch._grouped_mm`` over all slots of a bank; only to be compared with, without gradients."""

    bank: Stacks
    ends: Tensor
    """[slots] int32: where each slot's tokens end; they must stand in the order of the slots, none bare."""
    scale: Tensor
    """[M, 1] fp32."""

    @classmethod
    def of(cls, bank: Stacks, rows: Sequence[int], batch: Batch) -> Grouped:
        slots = torch.tensor(rows, device=batch.lengths.device)
        counts = batch.lengths.new_zeros(len(bank.loras)).index_add_(0, slots, batch.lengths)
        scales = torch.tensor([lora.scale if lora else 0.0 for lora in bank.loras], device=slots.device)
        return cls(bank, counts.cumsum(0).to(torch.int32), scales[slots[batch.row], None])

    def add(self, layer: int, target: str, x: Tensor, y: Tensor) -> Tensor:
        low = torch._grouped_mm(x, self.bank.a[layer, target].transpose(1, 2), offs=self.ends)
        low = (low * self.scale).to(x.dtype)
        return y + torch._grouped_mm(low, self.bank.b[layer, target].transpose(1, 2), offs=self.ends)

    def on(self, batch: Batch) -> Grouped:
        raise NotImplementedError("only measured on one layer")


def seconds(call: Call, about: float) -> float:
    """Median time of a call with the device's work done, over three readings of ``about`` so many seconds."""
    first = _timed(call, 3)
    times = max(1, min(1000, int(about / max(first, 1e-6) / 3)))
    return statistics.median(_timed(call, times) for _ in range(3))


def _timed(call: Call, times: int) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def _data(size: Size, tokens: int, device: str, dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
    """Per target an input and an output of the frozen projection."""
    generator, found = torch.Generator(device).manual_seed(1), {}
    for target in LORA_TARGETS:
        out, into = size.config.layer_shapes()[target]
        x, y = (torch.randn(tokens, n, generator=generator, device=device, dtype=dtype) for n in (into, out))
        found[target] = (x, y)
    return found
