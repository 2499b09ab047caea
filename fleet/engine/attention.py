"""Attention over packed rows, block by block. Knows nothing of layers, adapters or where keys are kept.

Grouped-query attention (arXiv:2305.13245): the heads that share keys are stacked as more queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fleet.engine.batch import Batch, Block

SMALL = 256 * 256
"""Up to so many query-key pairs a row plain batched products beat the fused kernel on the CPU (by 2 to 4
times with the backward pass). A longer row in the block may change the choice, and with it the rounding."""


@dataclass(frozen=True, slots=True)
class Attention:
    """The heads of one model; sizes count elements."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float

    def masks(self, batch: Batch, window: int | None, dtype: torch.dtype) -> list[Tensor]:
        """Per block what its scores are masked with; the same for all layers with this window."""
        found = []
        for block in batch.blocks:
            allowed = batch.allowed(block, window)
            if self._small(block):
                # 0 or minus infinity, [b * kv_heads, group * n, t]: added inside the product.
                bias = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
                bias = bias.masked_fill_(~allowed, -torch.inf)
                bias = bias.repeat_interleave(self.kv_heads, 0)
                allowed = bias.repeat_interleave(self.heads // self.kv_heads, 1)
            else:
                allowed = allowed[:, None]
            found.append(allowed)
        return found

    def attend(
        self, q: Tensor, seen: list[tuple[Tensor, Tensor]], batch: Batch, masks: list[Tensor]
    ) -> Tensor:
        """Packed queries ``[M, heads, head_dim]`` to ``[M, heads * head_dim]``.

        ``seen`` holds each block's keys and values, ``[b, t, kv_heads * head_dim]``.
        """
        parts = []
        for block, (k, v), mask in zip(batch.blocks, seen, masks, strict=True):
            attend = self._small_block if self._small(block) else self._fused_block
            parts.append(block.flat(attend(block.pad(q), k, v, mask)))
        return batch.restore(parts)

    @staticmethod
    def _small(block: Block) -> bool:
        return block.width * block.span <= SMALL

    def _small_block(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """``q [b, n, heads, head_dim]``, ``k, v [b, t, kv_heads * head_dim]`` to ``[b, n, ...]``."""
        b, n, t = q.shape[0], q.shape[1], k.shape[1]
        many, group = self.kv_heads, self.heads // self.kv_heads
        q = q.reshape(b, n, many, group, self.head_dim).transpose(1, 2)
        q = q.reshape(b * many, n * group, self.head_dim)
        k, v = (
            x.view(b, t, many, self.head_dim).transpose(1, 2).reshape(b * many, t, self.head_dim)
            for x in (k, v)
        )
        scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=self.scale)
        out = torch.bmm(torch.softmax(scores, dim=-1), v)
        out = out.view(b, many, n, group * self.head_dim).transpose(1, 2)
        return out.reshape(b, n, self.heads * self.head_dim)

    def _fused_block(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
        b, n, t = q.shape[0], q.shape[1], k.shape[1]
        group = self.heads // self.kv_heads
        k, v = (
            x.view(b, t, self.kv_heads, 1, self.head_dim).expand(-1, -1, -1, group, -1).flatten(2, 3)
            for x in (k, v)
        )
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=allowed, scale=self.scale
        )
        return out.transpose(1, 2).reshape(b, n, -1)
