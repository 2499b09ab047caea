"""A batch's adapters as two batched products a projection, however many adapters there are.

``Slots`` multiplies adapter by adapter: with many of them and few tokens each, the products are small and
their number is what they cost, on a GPU most of all. Here the tokens of each slot are cut into *tiles* of
one width, every tile takes a copy of its slot's matrices from the bank's stacks, and all tiles are
multiplied together (the idea of Punica's gathered products, arXiv:2310.18547, without a kernel of its own).
Equal to ``Slots`` to the rounding of the dtype, in the gradients too. Knows nothing of who fills the slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fleet.engine.batch import Batch
from fleet.engine.specs import LoraSpec

__all__ = ["Gathered", "Stacks", "Tiles", "pays"]

FROM_SLOTS = {"cpu": 3}
"""By kind of device the number of slots in a batch from which gathering wins (``benchmarks/device.py``)."""
FROM_SLOTS_ELSEWHERE = 4
"""There the launches count: ``Slots`` takes two products a slot, this takes eight in all."""

Key = tuple[int, str]
Ints = NDArray[np.int64]


def pays(slots: int, device: torch.device | str) -> bool:
    """Whether so many slots in one batch should be gathered rather than multiplied one by one."""
    return slots >= FROM_SLOTS.get(torch.device(device).type, FROM_SLOTS_ELSEWHERE)


@dataclass(frozen=True, slots=True)
class Stacks:
    """What a bank holds; all of it is the bank's own storage, never a copy."""

    a: Mapping[Key, Tensor]
    """By layer and target ``[slots, rank, in]``; zero where a slot has no adapter, or one of lower rank."""
    b: Mapping[Key, Tensor]
    """By layer and target ``[slots, out, rank]``, likewise."""
    views: Sequence[Mapping[Key, tuple[Tensor, Tensor]]]
    """Per slot the matrices that it really has; in training the leaves that gradients go to."""
    loras: Sequence[LoraSpec | None]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tokens in a grid of ``T`` tiles by ``width`` places, each tile of one slot."""

    slots: tuple[int, ...]
    """The slots in use, rising; G of them."""
    slot: Tensor
    """[T] int64: each tile's slot, rising."""
    group: Tensor
    """[T] int64: its index in ``slots``."""
    width: int
    source: Tensor | None
    """[T * width] int64: the packed token at each place, a padded place repeating one of its own tile.
    None when the grid is the packed tokens as they stand."""
    places: Tensor
    """[K] int64: the place of each adapted token."""
    tokens: Tensor | None
    """[K] int64: the packed index of each adapted token; None when all tokens are, in order."""
    weight: Tensor
    """[T, width, 1] fp32: the adapter's scale, 0 at padded places."""

    @classmethod
    def of(
        cls, rows: Sequence[int], lengths: Sequence[int], loras: Sequence[LoraSpec | None], device: str
    ) -> Tiles | None:
        """Tiles for packed rows of these slots and lengths, in any order; None when no row has an adapter."""
        adapted = [slot if slot >= 0 and loras[slot] is not None else -1 for slot in rows]
        of_token = np.repeat(np.array(adapted, dtype=np.int64), np.array(lengths, dtype=np.int64))
        tokens = np.argsort(of_token, kind="stable")[int((of_token < 0).sum()) :]
        slots, sizes = np.unique(of_token[tokens], return_counts=True)
        if not len(slots):
            return None
        used = [lora for slot in slots.tolist() if (lora := loras[slot]) is not None]
        width = _width(sizes, max(lora.rank for lora in used))
        count = -(-sizes // width)
        group = np.repeat(np.arange(len(slots)), count)
        starts, firsts = np.cumsum(sizes) - sizes, np.cumsum(count) - count
        places = np.repeat(firsts * width - starts, sizes) + np.arange(len(tokens))
        inside = (np.arange(len(group)) - firsts[group])[:, None] * width + np.arange(width)
        scale = np.array([lora.scale for lora in used], dtype=np.float32)[group][:, None]
        weight = np.where(inside < sizes[group][:, None], scale, np.float32(0))
        # The last token of a group lies in its last tile, so padding never looks at another slot's tokens.
        source = tokens[starts[group][:, None] + np.minimum(inside, sizes[group][:, None] - 1)]
        whole = len(tokens) == len(of_token)
        plain = (
            whole and source.size == len(tokens) and bool((source.ravel() == np.arange(source.size)).all())
        )
        if whole:
            ordered = np.empty_like(places)
            ordered[tokens] = places
            places = ordered
        on_device = _send([slots[group], group, source.ravel(), places, tokens], device)
        return cls(
            slots=tuple(slots.tolist()),
            slot=on_device[0],
            group=on_device[1],
            width=width,
            source=None if plain else on_device[2],
            places=on_device[3],
            tokens=None if whole else on_device[4],
            weight=torch.from_numpy(weight[:, :, None]).to(device, non_blocking=True),
        )

    def grid(self, x: Tensor) -> Tensor:
        """Packed ``[M, D]`` to ``[T, width, D]``."""
        if self.source is not None:
            x = x.index_select(0, self.source)
        return x.reshape(len(self.slot), self.width, -1)

    def merge(self, grid: Tensor, y: Tensor) -> Tensor:
        """``y [M, D]`` with its adapted tokens taken from ``grid [T, width, D]``."""
        flat = grid.reshape(-1, grid.shape[-1])
        if self.source is None:
            return flat
        found = flat.index_select(0, self.places)
        return found if self.tokens is None else y.index_copy(0, self.tokens, found)

    def sums(self, parts: Tensor) -> Tensor:
        """``[T, ...]`` added up by slot: ``[G, ...]``."""
        if len(parts) == len(self.slots):
            return parts
        return parts.new_zeros(len(self.slots), *parts.shape[1:]).index_add_(0, self.group, parts)


def _width(sizes: Ints, rank: int) -> int:
    """The tile width that moves the fewest elements: a place costs one token, a tile ``rank`` times that."""
    largest = int(sizes.max())
    widths = np.array([*(2**i for i in range(largest.bit_length())), largest], dtype=np.int64)
    tiles = -(-sizes[None, :] // widths[:, None])
    return int(widths[np.argmin(tiles.sum(1) * (widths + rank))])


def _send(arrays: Sequence[Ints], device: str) -> list[Tensor]:
    """Index arrays to the device in one transfer, which nobody waits for."""
    both = torch.from_numpy(np.concatenate(arrays)).to(device, non_blocking=True)
    return list(both.split([len(array) for array in arrays]))


@dataclass(frozen=True, slots=True)
class Gathered:
    """A batch's adapters in tiles; takes the place of ``fleet.engine.adapters.Slots``."""

    bank: Stacks
    rows: tuple[int, ...]
    """The slot of each row; -1 is the bare base."""
    tiles: Tiles | None
    dtype: torch.dtype

    @classmethod
    def of(cls, bank: Stacks, rows: Sequence[int], batch: Batch, *, dtype: torch.dtype) -> Gathered:
        """The adapters for a batch whose row *i* belongs to ``rows[i]``; products are taken in ``dtype``."""
        tiles = Tiles.of(rows, batch.lengths.tolist(), bank.loras, str(batch.lengths.device))
        return cls(bank, tuple(rows), tiles, dtype)

    def on(self, batch: Batch) -> Gathered:
        """The same rows' adapters where they have other numbers of tokens."""
        return Gathered.of(self.bank, self.rows, batch, dtype=self.dtype)

    def add(self, layer: int, target: str, x: Tensor, y: Tensor) -> Tensor:
        """``y [M, out]`` plus each slot's ``scale * B A x`` for ``x [M, in]``."""
        key, tiles = (layer, target), self.tiles
        if tiles is None or not any(key in self.bank.views[slot] for slot in tiles.slots):
            return y
        if not torch.is_grad_enabled():
            a = self.bank.a[key].index_select(0, tiles.slot).to(self.dtype)
            b = self.bank.b[key].index_select(0, tiles.slot).to(self.dtype)
            return _add(x, y, a, b, tiles)[0]
        held = [self.bank.views[slot].get(key) for slot in tiles.slots]
        where = tuple(i for i, pair in enumerate(held) if pair is not None)
        pairs = [pair for pair in held if pair is not None]
        a = _Gather.apply(self.bank.a[key], tiles, where, *(a for a, _ in pairs))  # type: ignore[no-untyped-call]
        b = _Gather.apply(self.bank.b[key], tiles, where, *(b for _, b in pairs))  # type: ignore[no-untyped-call]
        result: Tensor = _Add.apply(x, y, a.to(self.dtype), b.to(self.dtype), tiles)  # type: ignore[no-untyped-call]
        return result


class _Gather(torch.autograd.Function):
    """Each tile's matrices out of a stack; gradients go to the slots' own leaves, which are its storage."""

    @staticmethod
    def forward(ctx: Any, stack: Tensor, tiles: Tiles, where: tuple[int, ...], *leaves: Tensor) -> Tensor:
        ctx.tiles, ctx.where, ctx.shapes = tiles, where, [leaf.shape for leaf in leaves]
        return stack.index_select(0, tiles.slot)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        sums = ctx.tiles.sums(outer[0])
        # A leaf of lower rank than the bank's is a corner of its place in the stack.
        leaves = (sums[i, :n, :m] for i, (n, m) in zip(ctx.where, ctx.shapes, strict=True))
        return None, None, None, *leaves


class _Add(torch.autograd.Function):
    """``_add`` with the gradients in closed form: nothing padded is kept, nothing is added atomically."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, tiles: Tiles) -> Tensor:
        out, low = _add(x, y, a, b, tiles)
        ctx.save_for_backward(x, a, b, low)
        ctx.tiles = tiles
        return out

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, low = ctx.saved_tensors
        tiles: Tiles = ctx.tiles
        dy = tiles.grid(outer[0])
        # The weight is zero at padded places, and so is ``low``: repeated tokens count once.
        down = torch.bmm(dy, b).mul_(tiles.weight)
        da = torch.bmm(down.transpose(1, 2), tiles.grid(x))
        db = torch.bmm(dy.transpose(1, 2), low)
        dx = None
        if ctx.needs_input_grad[0]:  # not in the first adapted layer
            dx = tiles.merge(torch.bmm(down, a), torch.zeros_like(x))
        return dx, outer[0], da, db, None


def _add(x: Tensor, y: Tensor, a: Tensor, b: Tensor, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """``y [M, out]`` plus ``weight * b a x`` of each tile, and the weighted ``a x [T, width, rank]``.

    ``a [T, rank, in]``, ``b [T, out, rank]``.
    """
    low = torch.bmm(tiles.grid(x), a.transpose(1, 2)).mul_(tiles.weight)
    grid, into = tiles.grid(y), b.transpose(1, 2)
    # A grid that is a copy takes the sum itself: a new tensor would be filled with ``y`` once more.
    grid = torch.baddbmm(grid, low, into) if tiles.source is None else grid.baddbmm_(low, into)
    return tiles.merge(grid, y), low
