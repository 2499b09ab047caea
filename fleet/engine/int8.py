"""8-bit matrices for 8-bit activations on the CPU, for passes of many tokens. Knows nothing of layers.

A product with many rows is bound by arithmetic, and 8-bit products are twice as fast as bf16's. Weights
have one scale per output, activations one per token, both symmetric (as in LLM.int8's vector-wise
products, arXiv:2208.07339, without its outlier columns): a token's values never depend on its company.
"""

from __future__ import annotations

from dataclasses import dataclass

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
            part = x[start : start + step].float()
            # The scale is rounded to bf16, which must not push the largest entry over the last code.
            scale[start : start + step] = part.abs().amax(-1, keepdim=True).div_(126.0)
            inverse = scale[start : start + step].float().clamp_min_(SMALLEST).reciprocal_()
            codes[start : start + step] = part.mul_(inverse).add_(ZERO + 0.5)
        return cls(codes, scale, x.dtype)


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
        """Round a matrix to its outputs' lattices. Raises ``ValueError`` on another device than the CPU."""
        if weight.device.type != "cpu":
            raise ValueError("int8 weights are for the CPU: leave weights at bf16 on a GPU")
        out, into = weight.shape
        codes = torch.empty(out, into, dtype=torch.int8)
        scales = torch.empty(out, dtype=torch.float32)
        step = max(1, CACHED // into)
        for start in range(0, out, step):
            part = weight[start : start + step].float()
            scale = part.abs().amax(-1, keepdim=True).div_(127.0).clamp_min_(SMALLEST)
            codes[start : start + step] = part.div_(scale).round_()
            scales[start : start + step] = scale[:, 0]
        packed = torch.ops.onednn.qlinear_prepack(codes, None)
        return cls(packed, scales, torch.zeros(1, dtype=torch.int64))

    def linear(self, x: Tensor | Codes) -> Tensor:
        """``x [M, in]`` to ``[M, out]``; sums are exact, each value is rounded twice."""
        x = x if isinstance(x, Codes) else Codes.of(x)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            x.codes, 1.0, ZERO, self.packed, self.scales, self.zeros, None, 1.0, 0, x.dtype, "none", [], ""
        )
        return y.mul_(x.scale)
