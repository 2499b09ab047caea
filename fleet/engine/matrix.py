"""A frozen matrix in any of its forms, and its product. Knows nothing of what it is part of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fleet.engine.int4 import Int4Matrix
from fleet.engine.int8 import Int8Matrix, LastCodes
from fleet.engine.packed import PackedMatrix, PackedParts

Matrix = Tensor | PackedMatrix | PackedParts | Int4Matrix | Int8Matrix
"""``[out, in]`` as it lies in the file, or in an order or in weights that suit a kernel."""


def product(x: Tensor, matrix: Matrix, coded: LastCodes) -> Tensor:
    """``x [M, in]`` to ``[M, out]``; ``coded`` holds the 8-bit codes of an ``x`` that comes again."""
    if isinstance(matrix, Int8Matrix):
        return matrix.linear(coded.of(x))
    # A file's bf16 in a model of fp32 is widened as it is used: for many rows that costs little.
    return F.linear(x, matrix.to(x.dtype)) if isinstance(matrix, Tensor) else matrix.linear(x)
