"""Zeros that take memory only where something was written. Knows nothing of adapters.

What an allocator hands out for ``torch.zeros`` is filled at once, and stays with the process when it is
freed. Pages of an anonymous map are zero, come into being when they are first written, and go back with it.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["zeros_on_demand"]


def zeros_on_demand(
    shape: Sequence[int], *, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> Tensor:
    """Zeros of this shape; on a CPU whose system has private maps, pages nobody writes take no memory."""
    count = math.prod(shape)
    if torch.device(device).type != "cpu" or not count or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.zeros(*shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a page of two megabytes would take in what others never write
        with contextlib.suppress(OSError):  # a kernel that knows no such pages
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype, count=count).reshape(*shape)
