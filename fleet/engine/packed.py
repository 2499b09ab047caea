"""Matrices in the order in which the CPU's kernels read them. Knows nothing of layers.

A product with few rows is bound by the bytes of the weights. In the file's order oneDNN's kernels do not
reach the memory's bandwidth, in their own blocked order they do; the numbers are the same. The copy is
this process's own, where the file's pages are shared between processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fleet.engine.precision import has_bf16_products

HINT = 32
"""Rows that the order is chosen for; it serves any number."""
PART = 2**15
"""Outputs that are widened at a time."""


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A frozen ``[out, in]`` matrix; no gradient flows through its products."""

    packed: Tensor
    """Opaque, in the kernel's own order."""

    @classmethod
    def of(cls, weight: Tensor) -> PackedMatrix:
        """Copy a matrix into that order. Call only where ``can_pack`` says so."""
        return cls(torch.ops.mkldnn._reorder_linear_weight(weight, HINT))

    def linear(self, x: Tensor) -> Tensor:
        """``x [M, in]`` to ``[M, out]``, of the same dtype."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")
        return y

    def gelu(self, x: Tensor) -> Tensor:
        """``linear`` and GELU in its tanh form (arXiv:1606.08415) in one pass."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "gelu", [], "tanh")
        return y

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """``linear`` and the product with ``other [M, out]``, entry by entry, in one pass."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed, None, "mul")
        return y


@dataclass(frozen=True, slots=True)
class PackedParts:
    """A matrix of many outputs, in parts where it must be widened, so that it never is as a whole."""

    parts: tuple[PackedMatrix, ...]

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype) -> PackedParts:
        """Copy ``[out, in]`` into that order, ``dtype`` wide. Call only where ``can_pack`` says so."""
        parts = (weight,) if weight.dtype == dtype else weight.split(PART)
        return cls(tuple(PackedMatrix.of(part.to(dtype)) for part in parts))

    def linear(self, x: Tensor) -> Tensor:
        """``x [M, in]`` to ``[M, out]``, of the same dtype."""
        products = [part.linear(x) for part in self.parts]
        return products[0] if len(products) == 1 else torch.cat(products, dim=-1)


@cache
def can_pack(device: str, dtype: torch.dtype) -> bool:
    """Whether this build and processor have such products for matrices there and of this dtype."""
    if device != "cpu" or not (dtype == torch.float32 or (dtype == torch.bfloat16 and has_bf16_products())):
        return False
    try:
        matrix = PackedMatrix.of(torch.eye(64, dtype=dtype))
        found = matrix.linear(torch.ones(2, 64, dtype=dtype))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return bool((found == 1).all())
