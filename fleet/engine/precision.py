"""In what weights are stored, and in what a device multiplies them. Knows nothing of models.

Weights are bf16 wherever they lie, and bf16 numbers are fp32 numbers: where a processor has no bf16 products,
the same weights are multiplied in fp32, which rounds less and takes more memory. PyTorch would multiply them
in bf16 there too, in plain loops, many times slower than in fp32 (DECISIONS, "Processors without bf16").
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["has_bf16_products", "narrowed", "native_dtype", "stored"]


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As files hold them: bf16."""
    return {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}


def narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In ``dtype`` if it is wider than that, else as it is."""
    return tensor.to(dtype) if tensor.dtype.itemsize > dtype.itemsize else tensor


def native_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """bf16 on every device but a CPU without products of it, which has fp32."""
    if torch.device(device).type != "cpu" or has_bf16_products():
        return torch.bfloat16
    return torch.float32


def has_bf16_products() -> bool:
    """Whether oneDNN says so of this processor: AVX-512, AMX, or Arm's with bf16."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, NotImplementedError, RuntimeError):  # a build without oneDNN
        return False
