"""Where the packed tokens of a batch of rows belong. Knows nothing of models.

Packed means ``[M, ...]``: the rows' tokens one after the other. Only attention needs them padded, and it
pads in *blocks*, rows of similar length together, so that one long row costs its neighbours little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_SHRINK = {False: 0.7, True: 0.4}
"""A row this much shorter than the longest of its block starts a new one. With mostly past tokens, a row
has few queries: there the product's fixed cost counts for more."""
BLOCK_ROWS = 4
"""Rows of a block, at least: below, a product's fixed cost is more than its padding."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of similar length, padded to the longest; padding repeats a row's last token."""

    rows: Tensor
    """[b] int64: rows of the batch."""
    width: int
    """n, the most new tokens of a row."""
    span: int
    """t, the most past and new tokens of a row."""
    unpack: Tensor
    """[b * n] int64: packed index of each padded place."""
    pack: Tensor | None
    """[m] int64: padded place of each real token; None when nothing is padded."""
    alone: bool
    """All rows in their order without padding: padded and packed are the same tokens."""

    def pad(self, x: Tensor) -> Tensor:
        """``[M, ...]`` to ``[b, n, ...]``."""
        if not self.alone:
            x = x.index_select(0, self.unpack)
        return x.view(len(self.rows), self.width, *x.shape[1:])

    def flat(self, x: Tensor) -> Tensor:
        """``[b, n, ...]`` to the block's real tokens ``[m, ...]``."""
        x = x.reshape(-1, *x.shape[2:])
        return x if self.pack is None else x.index_select(0, self.pack)


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one forward pass; made once, used by every layer."""

    lengths: Tensor
    """[B] int64: new tokens per row."""
    positions: Tensor
    """[M] int64: absolute position of each packed token in its row."""
    row: Tensor
    """[M] int64: the row of each packed token."""
    spans: tuple[int, ...]
    """Past and new tokens per row."""
    blocks: tuple[Block, ...]
    groups: tuple[tuple[int, ...], ...]
    """The rows of each block."""
    order: Tensor | None
    """[M] int64: where each packed token stands among the blocks' tokens; None when they are in order."""

    @classmethod
    def of(cls, lengths: Sequence[int], past: Sequence[int] | None = None, device: str = "cpu") -> Batch:
        """Rows of so many new tokens behind ``past`` ones (none, if not given)."""
        if not lengths or min(lengths) < 1:
            raise ValueError("every row of a batch needs at least one new token")
        before = [0] * len(lengths) if past is None else list(past)
        n = torch.tensor(lengths, dtype=torch.int64, device=device)
        row = torch.repeat_interleave(torch.arange(len(lengths), device=device), n, output_size=sum(lengths))
        starts = torch.cumsum(n, 0) - n
        within = torch.arange(len(row), device=device) - starts[row]
        positions = torch.tensor(before, dtype=torch.int64, device=device)[row] + within
        spans = tuple(a + b for a, b in zip(lengths, before, strict=True))
        groups = _groups(lengths, spans) if n.device.type == "cpu" else (tuple(range(len(lengths))),)
        return cls(n, positions, row, spans, *_blocks(groups, lengths, spans, starts))

    @property
    def span(self) -> int:
        """The longest row's past and new tokens together."""
        return max(self.spans)

    @property
    def last(self) -> Tensor:
        """[B] int64: packed index of each row's last new token."""
        return torch.cumsum(self.lengths, 0) - 1

    def only(self, kept: Tensor) -> Batch:
        """The same rows with the tokens ``kept [P]`` alone: packed indices, rising, some of every row.

        Keys stay those of the whole batch, so ``spans`` and the rows of every block are unchanged.
        """
        row = self.row[kept]
        n = torch.bincount(row, minlength=len(self.lengths))
        lengths = n.tolist()
        if min(lengths) < 1:
            raise ValueError("every row must keep at least one token")
        starts = torch.cumsum(n, 0) - n
        blocks = _blocks(self.groups, lengths, self.spans, starts)
        return Batch(n, self.positions[kept], row, self.spans, *blocks)

    def allowed(self, block: Block, window: int | None) -> Tensor:
        """[b, n, t] bool, true where a query of the block may look at a key of its row."""
        keys = torch.arange(block.span, device=self.positions.device)
        queries = block.pad(self.positions)[:, :, None]
        allowed = keys <= queries
        return allowed if window is None else allowed & (keys > queries - window)

    def restore(self, parts: Sequence[Tensor]) -> Tensor:
        """The blocks' real tokens ``[m, ...]`` back in packed order ``[M, ...]``."""
        x = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        return x if self.order is None else x.index_select(0, self.order)


def _groups(lengths: Sequence[int], spans: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Rows that share a block: rows with mostly new tokens apart from those with mostly past ones."""
    ordered = sorted((2 * lengths[row] < span, -span, row) for row, span in enumerate(spans))
    groups: list[list[int]] = []
    first = (False, 0)
    for behind, negative, row in ordered:
        short = -negative <= BLOCK_SHRINK[behind] * first[1] and len(groups[-1]) >= BLOCK_ROWS
        if not groups or behind != first[0] or short:
            groups.append([])
            first = (behind, -negative)
        groups[-1].append(row)
    return tuple(tuple(sorted(group)) for group in groups)


def _blocks(
    groups: tuple[tuple[int, ...], ...], lengths: Sequence[int], spans: Sequence[int], starts: Tensor
) -> tuple[tuple[Block, ...], tuple[tuple[int, ...], ...], Tensor | None]:
    """``Batch.blocks``, ``.groups`` and ``.order``; ``starts [B]`` is each row's first packed index."""
    blocks = tuple(_block(group, lengths, spans, starts) for group in groups)
    if len(blocks) == 1:
        return blocks, groups, None
    order = torch.empty(sum(lengths), dtype=torch.int64, device=starts.device)
    taken = torch.cat([block.flat(block.unpack.view(len(block.rows), block.width)) for block in blocks])
    order[taken] = torch.arange(len(order), device=starts.device)
    return blocks, groups, order


def _block(group: Sequence[int], lengths: Sequence[int], spans: Sequence[int], starts: Tensor) -> Block:
    device = starts.device
    width = max(lengths[row] for row in group)
    rows = torch.tensor(group, device=device)
    n = torch.tensor([lengths[row] for row in group], device=device)
    places = torch.arange(width, device=device)
    unpack = (starts[rows][:, None] + torch.minimum(places, n[:, None] - 1)).reshape(-1)
    padded = any(lengths[row] != width for row in group)
    return Block(
        rows=rows,
        width=width,
        span=max(spans[row] for row in group),
        unpack=unpack,
        pack=(places < n[:, None]).reshape(-1).nonzero()[:, 0] if padded else None,
        alone=not padded and len(group) == len(lengths),
    )
