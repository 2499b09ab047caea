"""The steps between the matrix products, in few passes over memory, forward and backward.

On the CPU these passes, not their arithmetic, are what they cost. Knows nothing of layers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square norm (arXiv:1910.07467), Gemma's form: fp32 inside; ``weight`` is 1 + w in fp32."""
    if weight.requires_grad or x.is_cuda:  # a GPU has one kernel for all of it
        return F.rms_norm(x.float(), (x.shape[-1],), weight, eps).to(x.dtype)
    if not torch.is_grad_enabled():  # the function around it costs as much as one of its passes
        return _normed(x, weight, eps)[0]
    result: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return result


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    wide = x.to(torch.float32, copy=True)
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return wide.mul_(inverse).mul_(weight).to(x.dtype), inverse


class _RmsNorm(torch.autograd.Function):
    """With a frozen weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, inverse = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        # d/dx of x * i with i = (mean x^2 + eps)^-1/2: i * (g - x * i^2 * mean(g x)).
        wide, g = x.float(), grad.float() * weight
        along = torch.linalg.vecdot(g, wide)[..., None].mul_(inverse.square()).div_(-x.shape[-1])
        return g.addcmul_(wide, along).mul_(inverse).to(x.dtype), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (arXiv:2104.09864): ``x [M, heads, head_dim]``, ``cos, sin [M, 1, head_dim]``."""
    if not torch.is_grad_enabled():
        return _turn(x, cos, sin, 1.0)
    result: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return result


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, sin, -1.0), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    turned[..., half:].addcmul_(x[..., :half], sin[..., :half], value=sign)
    return turned
