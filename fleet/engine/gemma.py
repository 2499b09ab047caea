"""Gemma 3's text decoder, cut into trunk and rest. Knows nothing of prompts, constraints or optimisers.

The tokens of a batch are *packed*: ``[M, D]``, the rows' tokens one after the other, ``M`` their sum.
Projections, norms and adapters see 2-D tensors without padding; only attention pads, and only inside.
The architecture follows the Gemma 3 report (arXiv:2503.19786); the layer's arithmetic agrees with
transformers' ``Gemma3ForCausalLM`` to the rounding of the dtype, which tests hold on to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from fleet.engine.base_folder import weight_files

SMALL_ATTENTION = 256 * 256
"""Up to so many query-key pairs a row plain batched products beat the fused kernel on the CPU (by 2 to 4
times with the backward pass). A longer row in the batch may change the choice, and with it the rounding."""


@dataclass(frozen=True, slots=True)
class GemmaConfig:
    """Shape of a Gemma 3 text model; sizes count elements, ``window`` counts tokens."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    window: int
    global_layers: frozenset[int]
    eps: float
    attention_scale: float
    rope_theta: float
    rope_local_theta: float
    rope_global_factor: float = 1.0
    """Divides the positions of global layers (linear rope scaling; 8 in the larger models)."""

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> GemmaConfig:
        """Read transformers' ``config.json`` of either generation (flat rope keys, ``rope_parameters``)."""
        layers = int(config["num_hidden_layers"])
        kinds = config.get("layer_types")
        if kinds is None:
            every = int(config.get("sliding_window_pattern", 6))
            kinds = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]
        rope = config.get("rope_parameters") or {}
        full = rope.get("full_attention") or {}
        local = rope.get("sliding_attention") or {}
        scaling = config.get("rope_scaling") or {}
        return cls(
            hidden=int(config["hidden_size"]),
            layers=layers,
            heads=int(config["num_attention_heads"]),
            kv_heads=int(config["num_key_value_heads"]),
            head_dim=int(config["head_dim"]),
            mlp=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            window=int(config["sliding_window"]),
            global_layers=frozenset(i for i, kind in enumerate(kinds) if kind == "full_attention"),
            eps=float(config.get("rms_norm_eps", 1e-6)),
            attention_scale=float(config.get("query_pre_attn_scalar", config["head_dim"])) ** -0.5,
            rope_theta=float(full.get("rope_theta") or config.get("rope_theta") or 1e6),
            rope_local_theta=float(local.get("rope_theta") or config.get("rope_local_base_freq") or 1e4),
            rope_global_factor=float(full.get("factor") or scaling.get("factor") or 1.0),
        )


class Adapting(Protocol):
    """What adds to a frozen projection: see ``fleet.engine.adapters.Slots``."""

    def add(self, layer: int, target: str, x: Tensor, y: Tensor) -> Tensor:
        """``y [M, out]`` plus the adapters' share for ``x [M, in]``."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Where the packed tokens of a batch of rows belong; made once, used by every layer."""

    lengths: Tensor
    """[B] int64: new tokens per row."""
    past: Tensor
    """[B] int64: tokens that each row already has in the cache."""
    positions: Tensor
    """[M] int64: absolute position of each packed token in its row."""
    row: Tensor
    """[M] int64: the row of each packed token."""
    unpack: Tensor
    """[B * N] int64: packed index of each padded place (padding points at some real token)."""
    pack: Tensor
    """[M] int64: padded place of each packed token."""
    width: int
    """N, the longest row's new tokens."""
    span: int
    """T, the longest row's past and new tokens together."""
    padded: bool

    @classmethod
    def of(cls, lengths: Sequence[int], past: Sequence[int] | None = None, device: str = "cpu") -> Batch:
        if not lengths or min(lengths) < 1:
            raise ValueError("every row of a batch needs at least one new token")
        n = torch.tensor(lengths, dtype=torch.int64, device=device)
        p = torch.zeros_like(n) if past is None else torch.tensor(past, dtype=torch.int64, device=device)
        width = max(lengths)
        starts = torch.cumsum(n, 0) - n
        row = torch.repeat_interleave(torch.arange(len(lengths), device=device), n)
        within = torch.arange(int(n.sum()), device=device) - starts[row]
        places = torch.arange(width, device=device)
        unpack = (starts[:, None] + torch.minimum(places[None, :], n[:, None] - 1)).reshape(-1)
        return cls(
            lengths=n,
            past=p,
            positions=p[row] + within,
            row=row,
            unpack=unpack,
            pack=row * width + within,
            width=width,
            span=int((n + p).max()),
            padded=min(lengths) != width,
        )

    @property
    def last(self) -> Tensor:
        """[B] int64: packed index of each row's last new token."""
        return torch.cumsum(self.lengths, 0) - 1

    def pad(self, x: Tensor) -> Tensor:
        """``[M, ...]`` to ``[B, N, ...]``; padding repeats the row's last token."""
        if self.padded:
            x = x.index_select(0, self.unpack)
        return x.view(len(self.lengths), self.width, *x.shape[1:])

    def flat(self, x: Tensor) -> Tensor:
        """``[B, N, ...]`` back to ``[M, ...]``."""
        x = x.reshape(-1, *x.shape[2:])
        return x.index_select(0, self.pack) if self.padded else x

    def mask(self, window: int | None) -> Tensor:
        """[B, 1, N, T] bool, true where a query may look at a key of its row."""
        keys = torch.arange(self.span, device=self.lengths.device)
        places = torch.arange(self.width, device=self.lengths.device)
        queries = self.past[:, None] + torch.minimum(places[None, :], self.lengths[:, None] - 1)
        allowed = keys[None, None, :] <= queries[:, :, None]
        if window is not None:
            allowed &= keys[None, None, :] > queries[:, :, None] - window
        return allowed[:, None]


class Cache:
    """Keys and values per layer for a pool of rows, ``[rows, capacity, kv_heads * head_dim]`` each.

    Layers may hold different numbers of tokens (the trunk runs ahead of the rest); whoever runs a
    layer range says how many tokens of each row are already there.
    """

    def __init__(self, config: GemmaConfig, *, dtype: torch.dtype, device: str = "cpu") -> None:
        self._config = config
        self._options: dict[str, Any] = {"dtype": dtype, "device": device}
        self.rows = 0
        self.capacity = 0
        self.k: list[Tensor] = [torch.empty(0, **self._options)] * config.layers
        self.v: list[Tensor] = [torch.empty(0, **self._options)] * config.layers

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for at least so many rows of so many tokens; what is held stays."""
        if rows <= self.rows and capacity <= self.capacity:
            return
        rows = max(rows, self.rows if rows <= self.rows else 2 * self.rows)
        capacity = max(capacity, self.capacity if capacity <= self.capacity else 2 * self.capacity)
        width = self._config.kv_heads * self._config.head_dim
        for held in (self.k, self.v):
            for layer in range(self._config.layers):
                grown = torch.zeros(rows, capacity, width, **self._options)
                if self.rows:
                    grown[: self.rows, : self.capacity] = held[layer]
                held[layer] = grown
        self.rows, self.capacity = rows, capacity

    def put(self, layer: int, row: int, k: Tensor, v: Tensor) -> None:
        """Set a row's first tokens: ``k, v [T, kv_heads * head_dim]``."""
        self.k[layer][row, : len(k)] = k
        self.v[layer][row, : len(v)] = v


@dataclass(slots=True)
class _Layer:
    """One layer's frozen weights, in the layout of the file: ``[out, in]``."""

    projections: dict[str, Tensor]
    norms: dict[str, Tensor]


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square norm (arXiv:1910.07467), Gemma's form: fp32 inside; ``weight`` is 1 + w in fp32."""
    return F.rms_norm(x.float(), (x.shape[-1],), weight, eps).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (arXiv:2104.09864): ``x [M, heads, head_dim]``, ``cos, sin [M, 1, head_dim]``."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin


class Gemma:
    """A frozen Gemma 3 text decoder; all its weights stay as they are in the file (memory-mapped)."""

    def __init__(self, config: GemmaConfig, weights: Mapping[str, Tensor]) -> None:
        self.config = config
        self.embedding = weights["model.embed_tokens.weight"]
        self.dtype = self.embedding.dtype
        self.device = str(self.embedding.device)
        self._embed_scale = torch.tensor(config.hidden**0.5).to(self.dtype).to(self.embedding.device)
        self._final_norm = 1.0 + weights["model.norm.weight"].float()
        self._layers = [
            _Layer(
                projections={
                    name: weights[f"model.layers.{i}.{name}.weight"]
                    for name in (
                        *(f"self_attn.{p}_proj" for p in "qkvo"),
                        *(f"mlp.{p}_proj" for p in ("gate", "up", "down")),
                    )
                },
                norms={
                    name: 1.0 + weights[f"model.layers.{i}.{name}.weight"].float()
                    for name in (
                        "input_layernorm",
                        "post_attention_layernorm",
                        "pre_feedforward_layernorm",
                        "post_feedforward_layernorm",
                        "self_attn.q_norm",
                        "self_attn.k_norm",
                    )
                },
            )
            for i in range(config.layers)
        ]
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=self.embedding.device)
        exponents = exponents / config.head_dim
        self._inverse_frequencies = {
            True: 1.0 / (config.rope_theta**exponents) / config.rope_global_factor,
            False: 1.0 / (config.rope_local_theta**exponents),
        }

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> Gemma:
        """Load ``config.json`` and the weights that the fingerprint covers; transformers' format.

        On the CPU in the file's own dtype nothing is copied: processes share the pages.

        Raises ``KeyError`` when a tensor is missing; ``fleet.engine.base`` turns that into advice.
        """
        config = json.loads((folder / "config.json").read_text())
        weights: dict[str, Tensor] = {}
        for file in weight_files(folder):
            weights.update(load_file(file, device=device))
        # A tensor in the wanted dtype is passed through, so the memory map survives.
        return cls(
            GemmaConfig.from_json(config.get("text_config", config)),
            {_plain_name(name): tensor.to(dtype) for name, tensor in weights.items()},
        )

    def embed(self, ids: Tensor) -> Tensor:
        """``ids [M]`` int64 to ``[M, D]``."""
        return F.embedding(ids, self.embedding) * self._embed_scale

    def norm(self, h: Tensor) -> Tensor:
        """The final norm, ``[M, D]`` to ``[M, D]``."""
        return _rms_norm(h, self._final_norm, self.config.eps)

    def logits(self, h: Tensor, rows: Tensor | None = None) -> Tensor:
        """Normed ``h [M, D]`` to fp32 logits over the vocabulary ``[M, V]``, or over ``rows [K]`` of it."""
        # 2-D on purpose: a 3-D input to a frozen bf16 head is an order of magnitude slower on the CPU.
        head = self.embedding if rows is None else self.embedding.index_select(0, rows)
        return F.linear(h, head).float()

    def run(
        self,
        h: Tensor,
        batch: Batch,
        layers: tuple[int, int],
        *,
        adapters: Adapting | None = None,
        cache: Cache | None = None,
        cache_rows: Tensor | None = None,
        collect: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Take packed hidden states ``h [M, D]`` through layers ``[first, last)``.

        With a ``cache``, new keys and values are written behind ``batch.past`` of ``cache_rows [B]``
        and attention sees all of the row. ``collect`` receives each layer's new ``(k, v)``, packed
        ``[M, kv_heads * head_dim]``. Without a cache ``batch.past`` must be zero.
        """
        if cache is not None and cache.capacity < batch.span:
            raise ValueError(f"the cache holds {cache.capacity} tokens a row, {batch.span} are needed")
        ropes: dict[bool, tuple[Tensor, Tensor]] = {}
        masks: dict[bool, Tensor] = {}
        for index in range(*layers):
            everywhere = index in self.config.global_layers
            if everywhere not in ropes:
                ropes[everywhere] = self._rope(batch.positions, everywhere)
                short = batch.span <= self.config.window
                window = None if everywhere or short else self.config.window
                masks[everywhere] = batch.mask(window)
            h = self._layer(
                index, h, batch, ropes[everywhere], masks[everywhere], adapters, cache, cache_rows, collect
            )
        return h

    def _rope(self, positions: Tensor, everywhere: bool) -> tuple[Tensor, Tensor]:
        angles = positions.float()[:, None] * self._inverse_frequencies[everywhere][None, :]
        angles = torch.cat((angles, angles), dim=-1)[:, None, :]
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def _layer(
        self,
        index: int,
        h: Tensor,
        batch: Batch,
        rope: tuple[Tensor, Tensor],
        mask: Tensor,
        adapters: Adapting | None,
        cache: Cache | None,
        cache_rows: Tensor | None,
        collect: list[tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        c = self.config
        weights = self._layers[index]

        def project(target: str, x: Tensor) -> Tensor:
            y = F.linear(x, weights.projections[target])
            return y if adapters is None else adapters.add(index, target, x, y)

        def norm(name: str, x: Tensor) -> Tensor:
            return _rms_norm(x, weights.norms[name], c.eps)

        x = norm("input_layernorm", h)
        q = _rotate(
            norm("self_attn.q_norm", project("self_attn.q_proj", x).view(-1, c.heads, c.head_dim)), *rope
        )
        k = _rotate(
            norm("self_attn.k_norm", project("self_attn.k_proj", x).view(-1, c.kv_heads, c.head_dim)), *rope
        )
        v = project("self_attn.v_proj", x)
        k = k.view(len(x), -1)
        if collect is not None:
            collect.append((k, v))
        if cache is None:
            keys, values = batch.pad(k), batch.pad(v)
        else:
            assert cache_rows is not None
            cache.k[index][cache_rows[batch.row], batch.positions] = k
            cache.v[index][cache_rows[batch.row], batch.positions] = v
            keys = cache.k[index][cache_rows, : batch.span]
            values = cache.v[index][cache_rows, : batch.span]
        attended = self._attend(batch.pad(q), keys, values, mask)
        x = project("self_attn.o_proj", batch.flat(attended))
        h = h + norm("post_attention_layernorm", x)
        x = norm("pre_feedforward_layernorm", h)
        x = F.gelu(project("mlp.gate_proj", x), approximate="tanh") * project("mlp.up_proj", x)
        return h + norm("post_feedforward_layernorm", project("mlp.down_proj", x))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """``q [B, N, heads, head_dim]``, ``k, v [B, T, kv_heads * head_dim]`` to ``[B, N, D_heads]``.

        ``mask [B or 1, 1, N, T]`` is true where a query may look. Grouped-query attention
        (arXiv:2305.13245): the heads that share keys are stacked as more queries.
        """
        c = self.config
        b, n, t = q.shape[0], q.shape[1], k.shape[1]
        group = c.heads // c.kv_heads
        if n * t > SMALL_ATTENTION:
            k = k.view(b, t, c.kv_heads, 1, c.head_dim).expand(-1, -1, -1, group, -1).flatten(2, 3)
            v = v.view(b, t, c.kv_heads, 1, c.head_dim).expand(-1, -1, -1, group, -1).flatten(2, 3)
            out = F.scaled_dot_product_attention(
                q.transpose(1, 2),
                k.transpose(1, 2),
                v.transpose(1, 2),
                attn_mask=mask,
                scale=c.attention_scale,
            )
            return out.transpose(1, 2).reshape(b, n, -1)
        # Stacked per key head: [B * kv_heads, group * N, head_dim] against [B * kv_heads, T, head_dim].
        queries = q.view(b, n, c.kv_heads, group, c.head_dim).permute(0, 2, 3, 1, 4)
        queries = (queries * c.attention_scale).reshape(b * c.kv_heads, group * n, c.head_dim)
        keys = k.view(b, t, c.kv_heads, c.head_dim).transpose(1, 2).reshape(b * c.kv_heads, t, c.head_dim)
        values = v.view(b, t, c.kv_heads, c.head_dim).transpose(1, 2).reshape(b * c.kv_heads, t, c.head_dim)
        scores = torch.bmm(queries, keys.transpose(1, 2)).float().view(b, c.heads, n, t)
        weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1).to(q.dtype)
        out = torch.bmm(weights.view(b * c.kv_heads, group * n, t), values)
        return out.view(b, c.kv_heads, group, n, c.head_dim).permute(0, 3, 1, 2, 4).reshape(b, n, -1)


def _plain_name(name: str) -> str:
    """Multimodal checkpoints keep the text model under another prefix."""
    return name.replace("language_model.model.", "model.").replace("model.language_model.", "model.")
