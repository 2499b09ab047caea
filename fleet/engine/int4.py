"""Weight-only 4-bit matrices for decoding on the CPU. Knows nothing of layers or adapters.

The lattice is llama.cpp's Q4_0: blocks of 32 along the input, one scale each, the block's entry of the
largest magnitude exact but for the scale's rounding to bf16. A product with few rows is bound by the bytes
of the weights, and the packed codes have a quarter of them; torch's own kernel multiplies them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 32
"""Weights that share a scale."""
ROWS = 64
"""Rows that the kernel packs together."""


@dataclass(frozen=True, slots=True)
class Int4Matrix:
    """A frozen ``[out, in]`` matrix on the lattice; ``in`` is a multiple of 32."""

    out: int
    packed: Tensor
    """[out rounded up to 64, in / 2] uint8, in the kernel's own order."""
    scales: Tensor
    """[in / 32, out rounded up, 2] bf16: scale and zero point (0) of each block."""

    @classmethod
    def of(cls, weight: Tensor) -> Int4Matrix:
        """Snap a matrix to the lattice. Raises ``ValueError`` for a shape or device that has no kernel."""
        out, into = weight.shape
        if weight.device.type != "cpu":
            raise ValueError("int4 weights are for the CPU: leave weights at bf16 on a GPU")
        if into % BLOCK:
            raise ValueError(f"int4 weights need an input of a multiple of {BLOCK} (got {out} x {into})")
        packed = torch.zeros(-(-out // ROWS) * ROWS, into // 2, dtype=torch.uint8)
        scales = torch.zeros(into // BLOCK, len(packed), 2, dtype=torch.bfloat16)
        # In parts that stay in the processor's cache.
        step = max(ROWS, 2**17 // into // ROWS * ROWS)
        for start in range(0, out, step):
            part = weight[start : start + step].float()
            if missing := -len(part) % ROWS:
                part = torch.cat([part, part.new_zeros(missing, into)])
            scale, codes = snap(part)
            end = start + len(part)
            packed[start:end] = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
            scales[:, start:end, 0] = scale.t()
        return cls(out, packed, scales)

    def linear(self, x: Tensor) -> Tensor:
        """``x [M, in]`` to ``[M, out]``; the product is taken in bf16."""
        y = torch._weight_int4pack_mm_for_cpu(x.bfloat16(), self.packed, BLOCK, self.scales)
        return y[:, : self.out].to(x.dtype)


def snap(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Scales ``[out, in / 32]`` (fp32, of bf16 precision) and codes ``[out, in]`` (int32, 0 to 15) of fp32.

    A code stands for ``scale * (code - 8)``.
    """
    blocks = weight.view(len(weight), -1, BLOCK)
    low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
    scale = (torch.where(-low > high, low, high) / -8).bfloat16().float()
    inverse = torch.where(scale == 0, 0.0, 1.0 / scale)
    codes = (blocks * inverse + 8.5).clamp(0, 15.99).to(torch.int32)
    return scale[..., 0], codes.view_as(weight)
