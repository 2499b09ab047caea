"""One decode step, launched kernel by kernel, replayed as a CUDA graph, and compiled.

The step is what a full batch of free text costs between two tokens: every row has one new token and as many
behind it, an expert of its own, and pays for the whole head. Says whether graphs or a compiler would pay.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.bench import Report
from benchmarks.on_device.products import seconds, ways
from benchmarks.on_device.subject import Subject
from fleet.engine.batch import Batch

Step = Callable[[], Tensor]


def measure(subject: Subject, report: Report, time_left: Callable[[], float], *, compiled: bool) -> None:
    """One row for each size of batch; every way must choose the same tokens, near ties apart."""
    for rows in subject.size.batches:
        if time_left() < 0:
            report.notes.append(f"not measured for want of time: {rows} rows")
            continue
        report.rows.append(_row(subject, report, rows, compiled))
        print(report.rows[-1], flush=True)


@torch.inference_mode()
def _row(subject: Subject, report: Report, rows: int, compiled: bool) -> dict[str, int | float | None]:
    about = subject.size.seconds
    row: dict[str, int | float | None] = {"rows": rows}
    step = _step(subject, rows, "gathered")
    wanted = step().clone()
    for way in ("one by one", "gathered"):
        row[f"{way} ms"] = 1000 * seconds(_step(subject, rows, way), about)
    others: dict[str, Step] = {}
    if subject.model.device.startswith("cuda"):
        others["graph"] = _graph(step)
    if compiled:
        others["compiled"] = torch.compile(step, dynamic=False)
        if "graph" in others:
            others["compiled graph"] = _graph(others["compiled"])
    for name in ("graph", "compiled", "compiled graph"):
        row[f"{name} ms"] = None
        if name in others:
            differ = int((others[name]() != wanted).sum())
            if differ > rows // 10:  # rounding may turn a near tie
                report.failures.append(f"{name}: {differ} of {rows} rows choose another token")
            row[f"{name} ms"] = 1000 * seconds(others[name], about)
    return row


def _step(subject: Subject, rows: int, way: str) -> Step:
    """A step that can be repeated: it writes the same places of the cache each time."""
    model, size = subject.model, subject.size
    batch = Batch.of([1] * rows, [size.past] * rows, model.device)
    cache = model.cache()
    cache.reserve(rows, batch.span)
    for held in (*cache.k, *cache.v):
        held.normal_()
    slots = [i * subject.bank.slots // rows for i in range(rows)]
    adapters = ways(subject.bank, slots, batch, model.dtype)[way]
    ids = torch.arange(32, 32 + rows, device=model.device)
    cache_rows = torch.arange(rows, device=model.device)

    def step() -> Tensor:
        h = model.embed(ids)
        h = model.run(h, batch, (0, size.depth), cache=cache, cache_rows=cache_rows)
        h = model.run(
            h, batch, (size.depth, model.config.layers), adapters=adapters, cache=cache, cache_rows=cache_rows
        )
        return model.logits(model.norm(h)).argmax(-1)

    return step


def _graph(step: Step) -> Step:
    """The step's kernels as one launch."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # libraries take their workspaces outside the capture
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
