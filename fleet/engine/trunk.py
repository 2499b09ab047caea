"""The shared lower layers, run once per job for whoever needs them: router, every asked expert, training.

Knows nothing of adapters: the trunk is the frozen base's layers ``[0, depth)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fleet.engine.batch import Batch
from fleet.engine.gemma import Gemma

BATCH_TOKENS = 4096
"""Tokens of one trunk pass: enough to keep the matrix products busy, little enough to fit anywhere."""

POOLED_TOKENS = 1024
"""Tokens of a text, the first ones, that its pooled states are of: as much in serving as in fitting."""


@dataclass(frozen=True, slots=True)
class TrunkState:
    """What the trunk made of one job's tokens."""

    ids: tuple[int, ...]
    depth: int
    hidden: Tensor
    """``[T, D]``: hidden states after layer ``depth``."""
    keys: tuple[tuple[Tensor, Tensor], ...]
    """Per trunk layer ``(k, v)``, each ``[T, kv_heads * head_dim]``."""
    pooled: Mapping[int, Tensor]
    """Per tapped layer fp32 ``[2 * D]``: mean and standard deviation over the text's first
    ``POOLED_TOKENS`` tokens, ``<bos>`` left out."""


def run_trunk(
    model: Gemma, depth: int, jobs: Sequence[Sequence[int]], *, taps: Sequence[int] = ()
) -> list[TrunkState]:
    """Run every job's ids (``<bos>`` first) through layers ``[0, depth)``; results in the order given.

    ``taps`` names the layers after which states are pooled, each at most ``depth``.
    """
    if any(tap > depth for tap in taps):
        raise ValueError(f"taps {list(taps)} must not lie above the trunk's depth {depth}")
    states: dict[int, TrunkState] = {}
    with torch.inference_mode():
        for chunk in batches([len(ids) for ids in jobs], BATCH_TOKENS):
            states.update(zip(chunk, _run(model, depth, [jobs[i] for i in chunk], sorted(taps)), strict=True))
    return [states[i] for i in range(len(jobs))]


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices of rows of similar length, at most ``tokens`` padded tokens (or one row) together."""
    chunk: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if chunk and lengths[index] * (len(chunk) + 1) > tokens:
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk


def _run(model: Gemma, depth: int, jobs: Sequence[Sequence[int]], taps: Sequence[int]) -> list[TrunkState]:
    lengths = [len(ids) for ids in jobs]
    batch = Batch.of(lengths, device=model.device)
    h = model.embed(torch.tensor([i for ids in jobs for i in ids], device=model.device))
    collected: list[tuple[Tensor, Tensor]] = []
    pooled: list[dict[int, Tensor]] = [{} for _ in jobs]
    reached = 0
    for stop in sorted({*taps, depth}):
        h = model.run(h, batch, (reached, stop), collect=collected)
        reached = stop
        if stop in taps:
            for mine, part in zip(pooled, h.split(lengths), strict=True):
                # A job that is <bos> alone has no text; its mean is <bos> itself.
                text = (part[1 : 1 + POOLED_TOKENS] if len(part) > 1 else part).float()
                mean = text.mean(0)
                # Several times as fast on a CPU as torch.std_mean.
                spread = (text - mean).square_().mean(0).sqrt_()
                mine[stop] = torch.cat([mean, spread])
    rows_k = [k.split(lengths) for k, _ in collected]
    rows_v = [v.split(lengths) for _, v in collected]
    return [
        TrunkState(
            tuple(ids),
            depth,
            hidden,
            tuple((rows_k[layer][i], rows_v[layer][i]) for layer in range(depth)),
            pooled[i],
        )
        for i, (ids, hidden) in enumerate(zip(jobs, h.split(lengths), strict=True))
    ]
