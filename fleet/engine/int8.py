"""8-bit matrices for 8-bit activations on the CPU, for passes of many tokens. Knows nothing of layers.

A product with many rows is bound by arithmetic, and 8-bit products are twice as fast as bf16's. Weights
have one scale per output, activations one per token, both symmetric (as in LLM.int8's vector-wise
products, arXiv:2208.07339, without its outlier columns): a row's codes and products depend on nothing but
the row. What enters a row may: rounding in other parts of the model depends on the batch, and codes make
more of it than bf16 does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

ZERO = 128
"""The code of 0: the kernel takes activations without sign."""
CACHED = 2**17
"""Numbers that are turned to codes at a time, so that the steps between stay in the processor's cache."""
SMALLEST = 2.0**-96
"""Of a scale: a row of nothing but 0 has the codes of 0."""


@dataclass(frozen=True, slots=True)
class Codes:
    """Activations in 8 bits: ``scale * (code - 128)``."""

    codes: Tensor
    """[M, in] uint8."""
    scale: Tensor
    """[M, 1] bf16."""
    dtype: torch.dtype
    """Of the activations, and of what they are multiplied to."""

    @classmethod
    def of(cls, x: Tensor) -> Codes:
        """Round ``x [M, in]`` to its rows' lattices. NaN or infinity in a row make its scale so."""
        rows, width = x.shape
        codes = torch.empty(rows, width, dtype=torch.uint8)
        scale = torch.empty(rows, 1, dtype=torch.bfloat16)
        step = max(1, CACHED // width)
        for start in range(0, rows, step):
            # A copy in any case: what is an fp32 tensor already is the caller's.
            part = x[start : start + step].to(torch.float32, copy=True)
            # The scale is rounded to bf16, which must not push the largest entry over the last code.
            scale[start : start + step] = part.abs().amax(-1, keepdim=True).div_(126.0)
            inverse = scale[start : start + step].float().clamp_min_(SMALLEST).reciprocal_()
            codes[start : start + step] = part.mul_(inverse).add_(ZERO + 0.5)
        return cls(codes, scale, x.dtype)


class LastCodes:
    """The codes of the activations that were multiplied last: several projections take the same ones."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Codes] | None = None

    def of(self, x: Tensor) -> Codes:
        """The codes of ``x``, which must not have changed since it was last given."""
        if self._last is None or self._last[0] is not x:
            self._last = (x, Codes.of(x))
        return self._last[1]


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A frozen ``[out, in]`` matrix with one scale per output."""

    packed: Tensor
    """The codes in the kernel's own order."""
    scales: Tensor
    """[out] fp32."""
    zeros: Tensor
    """[1] int64, 0: the weights' zero point."""

    @classmethod
    def of(cls, weight: Tensor) -> Int8Matrix:
        """Round a matrix to its outputs' lattices. Raises ``ValueError`` where there is no exact kernel."""
        if weight.device.type != "cpu":
            raise ValueError("int8 weights are for the CPU: leave weights at bf16 on a GPU")
        if (fault := kernel_fault()) is not None:
            raise ValueError(fault)
        out, into = weight.shape
        codes = torch.empty(out, into, dtype=torch.int8)
        scales = torch.empty(out, dtype=torch.float32)
        step = max(1, CACHED // into)
        for start in range(0, out, step):
            part = weight[start : start + step].to(torch.float32, copy=True)
            scale = part.abs().amax(-1, keepdim=True).div_(127.0).clamp_min_(SMALLEST)
            codes[start : start + step] = part.div_(scale).round_()
            scales[start : start + step] = scale[:, 0]
        return cls._packed(codes, scales)

    @classmethod
    def _packed(cls, codes: Tensor, scales: Tensor) -> Int8Matrix:
        packed = torch.ops.onednn.qlinear_prepack(codes, None)
        return cls(packed, scales, torch.zeros(1, dtype=torch.int64))

    def linear(self, x: Codes) -> Tensor:
        """``x [M, in]`` to ``[M, out]``; sums are exact, each value is rounded twice."""
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            x.codes, 1.0, ZERO, self.packed, self.scales, self.zeros, None, 1.0, 0, x.dtype, "none", [], ""
        )
        return y.mul_(x.scale)


@cache
def kernel_fault() -> str | None:
    """Why this machine has no 8-bit products that can be relied on; None if it has.

    Processors with AVX-512 but without its VNNI instructions add pairs of products in 16 bits, which
    overflow. Asked of the kernel itself, with the largest codes.
    """
    rows, into, out = 4, 64, 32
    codes = torch.full((rows, into), 255, dtype=torch.uint8)
    weights = torch.full((out, into), 127, dtype=torch.int8)
    try:
        matrix = Int8Matrix._packed(weights, torch.ones(out))
        found = matrix.linear(Codes(codes, torch.ones(rows, 1).bfloat16(), torch.float32))
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        return f"this build of torch has no 8-bit products ({str(error).splitlines()[0]})"
    if not bool((found == (255 - ZERO) * 127 * into).all()):
        return "this processor's 8-bit products overflow (it lacks VNNI instructions)"
    return None
