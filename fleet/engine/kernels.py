"""How many compiled kernels a process keeps. Knows nothing of models.

oneDNN compiles a kernel for every shape of a product that it meets, and jobs of all lengths in batches of
all sizes have no end of shapes. PyTorch's bindings and the library hold the last 1,024 each, up to a megabyte
for one: a process that serves grows for hours, by more than its base weighs. Fewer are enough.
"""

from __future__ import annotations

import os

__all__ = ["KEPT", "bound_kernels"]

KEPT = 128
"""Of each of the two caches."""

VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Of the library and of PyTorch's bindings, which read them once, at the first product, and crash at 0."""


def bound_kernels() -> None:
    """Keep ``KEPT`` of them in this process, unless its environment says otherwise.

    Without effect once oneDNN has multiplied here.
    """
    for variable in VARIABLES:
        os.environ.setdefault(variable, str(KEPT))
