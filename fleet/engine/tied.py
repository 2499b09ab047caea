"""The table of tokens that is both the first thing and the last: embedding and head. Knows nothing of layers.

It stays as it is in the file, memory-mapped, whatever the model computes in: rows are widened as they are
looked up, the whole only where all of it is multiplied, which labels and most records never need.
"""

from __future__ import annotations

import copy
import threading
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
        self._making = threading.Lock()

    def headed(self, make: Callable[[Tensor], Matrix], *, at_once: bool = False) -> TiedTable:
        """The same table with another form of its head, made when it is first multiplied, or ``at_once``.

        Raises whatever ``make`` does.
        """
        other = copy.copy(self)
        other._make, other._head, other._making = make, None, threading.Lock()
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
        """Rows ``wanted [K]`` of the table, or all of it: ``[K, D]``, to be trained against.

        Raises ``ValueError`` for all of it where the head has another form.
        """
        if wanted is not None:
            return self.table.index_select(0, wanted).to(self.dtype)
        head = self._whole()
        if not isinstance(head, Tensor):
            raise ValueError("a model in another order or lighter weights has no head to be trained against")
        return head

    def logits(self, h: Tensor) -> Tensor:
        """``h [M, D]`` to fp32 logits over the vocabulary ``[M, V]``."""
        return product(h, self._whole(), LastCodes()).float()

    def _whole(self) -> Matrix:
        with self._making:  # two threads would make two of them
            if self._head is None:
                self._head = self.table.to(self.dtype) if self._make is None else self._make(self.table)
            return self._head
