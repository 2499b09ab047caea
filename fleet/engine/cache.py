"""Keys and values that rows have behind them. Knows nothing of who fills the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Cache:
    """Keys and values per layer for a pool of rows, ``[rows, capacity, width]`` each.

    Layers may hold different numbers of tokens (the trunk runs ahead of the rest); whoever runs a
    layer range says how many tokens of each row are already there.
    """

    def __init__(self, layers: int, width: int, *, dtype: torch.dtype, device: str = "cpu") -> None:
        self._width = width
        self._options: dict[str, Any] = {"dtype": dtype, "device": device}
        self.rows = 0
        self.capacity = 0
        self.k: list[Tensor] = [torch.empty(0, **self._options)] * layers
        self.v: list[Tensor] = [torch.empty(0, **self._options)] * layers

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for at least so many rows of so many tokens; what is held stays."""
        if rows <= self.rows and capacity <= self.capacity:
            return
        rows = max(rows, self.rows if rows <= self.rows else 2 * self.rows)
        capacity = max(capacity, self.capacity if capacity <= self.capacity else 2 * self.capacity)
        for held in (self.k, self.v):
            for layer, old in enumerate(held):
                grown = torch.zeros(rows, capacity, self._width, **self._options)
                if self.rows:
                    grown[: self.rows, : self.capacity] = old
                held[layer] = grown
        self.rows, self.capacity = rows, capacity

    def put(self, rows: Sequence[int], keys: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> None:
        """Set the first tokens of rows: of each row, for the lowest layers, ``k, v [T, width]``."""
        lengths = [len(layers[0][0]) for layers in keys]
        row = np.repeat(np.array(rows), lengths)
        place = np.arange(sum(lengths)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        where = torch.from_numpy(row * self.capacity + place).to(self.k[0].device, non_blocking=True)
        for held, what in ((self.k, 0), (self.v, 1)):
            for layer in range(len(keys[0])):
                new = torch.cat([layers[layer][what] for layers in keys])
                held[layer].view(-1, self._width).index_copy_(0, where, new)
