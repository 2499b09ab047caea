"""The table of tokens that is both the first thing and the last: embedding and head. Knows nothing of layers.

It stays as it is in the file, memory-mapped, whatever the model computes in: rows are widened as they are
looked up, the whole only where all of it is multiplied, which labels and most records never need.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fleet.engine.int8 import LastCodes
from fleet.engine.matrix import Matrix, product


class TiedTable:
    """``table [V, D]`` as in the file, for a model that computes in ``dtype``."""

    def __init__(self, table: Tensor, dtype: torch.dtype) -> None:
        self.table = table
        self.dtype = dtype
        self._scale = torch.tensor(table.shape[1] ** 0.5).to(dtype).to(table.device)
        self._make: Callable[[Tensor], Matrix] | None = None
        self._head: Matrix | None = None

    def headed(self, make: Callable[[Tensor], Matrix], *, at_once: bool = False) -> TiedTable:
        """The same table with another form of its head, made when it is first multiplied, or ``at_once``.

        Raises whatever ``make`` does.
        """
        other = copy.copy(self)
        other._make, other._head = make, None
        if at_once:
            other._head = make(self.table)
        return other

    @property
    def is_plain(self) -> bool:
        """Whether the head is the table itself."""
        return self._make is None

    def embed(self, ids: Tensor) -> Tensor:
        """``ids [M]`` int64 to ``[M, D]``."""
        return F.embedding(ids, self.table).to(self.dtype) * self._scale

    def rows(self, wanted: Tensor | None = None) -> Tensor:
        """Rows ``wanted [K]`` of the table, or all of it: ``[K, D]``, to be trained against."""
        if wanted is not None:
            return self.table.index_select(0, wanted).to(self.dtype)
        if not self.is_plain:
            return self.table.to(self.dtype)
        if self._head is None:
            self._head = self.table.to(self.dtype)
        assert isinstance(self._head, Tensor)
        return self._head

    def logits(self, h: Tensor) -> Tensor:
        """``h [M, D]`` to fp32 logits over the vocabulary ``[M, V]``."""
        if self._head is None:
            # Another form of bf16's is made of the file's numbers, of fp32's too.
            self._head = self.rows() if self._make is None else self._make(self.table.to(self.dtype))
        return product(h, self._head, LastCodes()).float()
