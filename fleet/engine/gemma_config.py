"""The shape of a Gemma 3 text model, from transformers' ``config.json``. Knows no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
    "self_attn.q_norm",
    "self_attn.k_norm",
)
"""The norms of one layer; its projections are ``LORA_TARGETS``."""


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

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one layer's weights by name: projections ``(out, in)``, norms ``(size,)``."""
        attention, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (attention, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, attention),
            "mlp.gate_proj": (self.mlp, self.hidden),
            "mlp.up_proj": (self.mlp, self.hidden),
            "mlp.down_proj": (self.hidden, self.mlp),
            **{name: (self.head_dim if name.startswith("self_attn.") else self.hidden,) for name in NORMS},
        }
