"""Cross-entropy over the frozen, tied vocabulary head at supervised positions only.

The head never trains, so the gradient with respect to the hidden states is made together with the
loss, chunk by chunk, and no logits are kept.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fleet.engine.gemma import Gemma

CHUNK = 256
"""Positions per chunk: 256 rows of fp32 logits over 262,144 tokens are 268 MB."""


def head_loss(model: Gemma, h: Tensor, targets: Tensor, vocabulary: Tensor | None = None) -> Tensor:
    """Summed negative log-likelihood in nats of ``targets [P]`` given normed ``h [P, D]``.

    ``vocabulary [K]``, sorted token ids that contain every target, restricts the softmax to those rows
    of the head; None is the whole vocabulary.
    """
    if vocabulary is None and not (torch.is_grad_enabled() and h.requires_grad):
        # Nothing to learn: the head that serves, whatever its weights are held in.
        parts = zip(h.split(CHUNK), targets.split(CHUNK), strict=True)
        total = torch.zeros((), device=h.device)
        for part, wanted in parts:
            total += F.cross_entropy(model.logits(part), wanted, reduction="sum")
        return total
    head = model.head(vocabulary)
    if vocabulary is not None:
        targets = torch.searchsorted(vocabulary, targets)
    result: Tensor = _HeadLoss.apply(h, head, targets)  # type: ignore[no-untyped-call]
    return result


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros((), device=h.device)
        grad = torch.empty_like(h) if h.requires_grad else None
        for start in range(0, len(h), CHUNK):
            part, wanted = h[start : start + CHUNK], targets[start : start + CHUNK, None]
            log_p = torch.log_softmax((part @ head.t()).float(), dim=-1)
            total -= log_p.gather(1, wanted).sum()
            if grad is not None:
                d = log_p.exp_().scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=log_p.dtype))
                grad[start : start + CHUNK] = d.to(head.dtype) @ head
        ctx.save_for_backward(*(() if grad is None else (grad,)))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * outer[0].to(grad.dtype), None, None
