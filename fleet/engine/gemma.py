"""Gemma 3's text decoder, cut into trunk and rest. Knows nothing of prompts, constraints or optimisers.

The tokens of a batch are *packed*: ``[M, D]``, the rows' tokens one after the other, ``M`` their sum.
Projections, norms and adapters see 2-D tensors without padding; only attention pads, and only inside.
The architecture follows the Gemma 3 report (arXiv:2503.19786); the layer's arithmetic agrees with
transformers' ``Gemma3ForCausalLM`` to the rounding of the dtype, which tests hold on to.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from fleet.engine.attention import Attention
from fleet.engine.base_folder import weight_files
from fleet.engine.batch import Batch
from fleet.engine.cache import Cache
from fleet.engine.elementwise import rms_norm, rotate
from fleet.engine.gemma_config import NORMS, GemmaConfig
from fleet.engine.int4 import Int4Matrix
from fleet.engine.int8 import Int8Matrix, LastCodes
from fleet.engine.matrix import Matrix, product
from fleet.engine.packed import PackedMatrix, PackedParts, can_pack
from fleet.engine.precision import narrowed
from fleet.engine.specs import LORA_TARGETS
from fleet.engine.tied import TiedTable

FINAL_NORM = "model.norm.weight"
EMBEDDING = "model.embed_tokens.weight"


def weight_name(layer: int, name: str) -> str:
    """A layer's projection or norm as transformers' files call it."""
    return f"model.layers.{layer}.{name}.weight"


class Adapting(Protocol):
    """What adds to a frozen projection: see ``fleet.engine.adapters.Slots``."""

    def add(self, layer: int, target: str, x: Tensor, y: Tensor) -> Tensor:
        """``y [M, out]`` plus the adapters' share for ``x [M, in]``."""
        ...

    def on(self, batch: Batch) -> Adapting:
        """The same adapters for the same rows with other numbers of tokens."""
        ...


@dataclass(slots=True)
class _Layer:
    """One layer's frozen weights, in the layout of the file: ``[out, in]``."""

    projections: dict[str, Matrix]
    norms: dict[str, Tensor]
    """1 + w in fp32, as the forward uses them."""

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], index: int) -> _Layer:
        """The layer's weights among those of a file, by transformers' names."""
        return cls(
            projections={name: weights[weight_name(index, name)] for name in LORA_TARGETS},
            norms={name: 1.0 + weights[weight_name(index, name)].float() for name in NORMS},
        )


_KeepKeys = Callable[[int, Tensor, Tensor], list[tuple[Tensor, Tensor]]]


@dataclass(frozen=True, slots=True)
class _Place:
    """What one layer needs to know of the batch beside its hidden states."""

    queries: Batch
    kept: Tensor | None
    """Packed indices of the tokens that are queries; None when all are."""
    rope: tuple[Tensor, Tensor]
    masks: list[Tensor]


class Gemma:
    """A frozen Gemma 3 text decoder; all its weights stay as they are in the file (memory-mapped)."""

    def __init__(
        self, config: GemmaConfig, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None
    ) -> None:
        """Computes in ``dtype``, which is not narrower than the weights; None is the embedding's."""
        self.config = config
        self._layers = [_Layer.of(weights, i) for i in range(config.layers)]
        self.dtype = weights[EMBEDDING].dtype if dtype is None else dtype
        self._tied = TiedTable(weights[EMBEDDING], self.dtype)
        self.device = str(self.embedding.device)
        self._attention = Attention(config.heads, config.kv_heads, config.head_dim, config.attention_scale)
        self._final_norm = 1.0 + weights[FINAL_NORM].float()
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=self.embedding.device)
        exponents = exponents / config.head_dim
        self._inverse_frequencies = {
            True: 1.0 / (config.rope_theta**exponents) / config.rope_global_factor,
            False: 1.0 / (config.rope_local_theta**exponents),
        }

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu", dtype: torch.dtype) -> Gemma:
        """Load ``config.json`` and the weights that the fingerprint covers; transformers' format.

        Weights are bf16 numbers whatever ``dtype`` they are computed in, so that a fingerprint names the
        same ones everywhere. On the CPU a file of bf16 is not copied: processes share the pages.

        Raises ``KeyError`` when a tensor is missing; ``fleet.engine.base`` turns that into advice.
        """
        config = json.loads((folder / "config.json").read_text())
        weights: dict[str, Tensor] = {}
        for file in weight_files(folder):
            weights.update(load_file(file, device=device))
        # A tensor in that dtype is passed through, so the memory map survives.
        named = {_plain_name(name): tensor.to(torch.bfloat16) for name, tensor in weights.items()}
        return cls(GemmaConfig.from_json(config.get("text_config", config)), named, dtype)

    def packed(self) -> Gemma:
        """This model with its projections in the order of the CPU's kernels, for serving; the same numbers.

        Its whole head follows when it is first multiplied: labels never need it. Where there is no such
        order the model itself. Embedding, norms and head rows are shared.
        """
        if not can_pack(self.device, self.dtype):
            return self
        other = self._with_matrices(lambda weight: PackedMatrix.of(weight.to(self.dtype)), 0)
        if self._tied.is_plain:  # and not one of 8 bits
            other._tied = self._tied.headed(lambda table: PackedParts.of(table, self.dtype))
        return other

    def int4(self) -> Gemma:
        """This model with projections and head snapped to 4 bits; embedding, norms and head rows are shared.

        Raises ``ValueError`` on another device than the CPU.
        """
        return self._lighter(Int4Matrix.of, 0)

    def int8(self, first: int) -> Gemma:
        """This model with 8-bit products in its head and the projections from layer ``first`` on.

        Embedding, norms, head rows and the layers below are shared.

        Raises ``ValueError`` on another device than the CPU, or a CPU without such products.
        """
        return self._lighter(Int8Matrix.of, first)

    def _lighter(self, lighten: Callable[[Tensor], Matrix], first: int) -> Gemma:
        if not all(
            isinstance(w, Tensor) for layer in self._layers[first:] for w in layer.projections.values()
        ):
            raise ValueError("a model in another order has no weights to be made lighter: lighten it before")
        other = self._with_matrices(lighten, first)
        other._tied = self._tied.headed(lighten, at_once=True)
        return other

    def _with_matrices(self, make: Callable[[Tensor], Matrix], first: int) -> Gemma:
        other = copy.copy(self)
        other._layers = self._layers[:first] + [
            _Layer(
                projections={
                    name: make(weight) if isinstance(weight, Tensor) else weight
                    for name, weight in layer.projections.items()
                },
                norms=layer.norms,
            )
            for layer in self._layers[first:]
        ]
        return other

    def own_weights(self, layers: tuple[int, int]) -> dict[str, Tensor]:
        """The weights of layers ``[first, last)`` by transformers' names; with the last one the final norm.

        Projections are shared, norms in fp32. Raises ``ValueError`` for a model in lighter weights.
        """
        found: dict[str, Tensor] = {}
        for index in range(*layers):
            for name, weight in self._layers[index].projections.items():
                if not isinstance(weight, Tensor):
                    raise ValueError("a model in lighter weights has none that could be trained")
                found[weight_name(index, name)] = weight
            for name, norm in self._layers[index].norms.items():
                found[weight_name(index, name)] = norm - 1.0
        if layers[1] == self.config.layers:
            found[FINAL_NORM] = self._final_norm - 1.0
        return found

    def with_body(self, layers: tuple[int, int], weights: Mapping[str, Tensor]) -> Gemma:
        """A model with these weights for layers ``[first, last)``, and for the final norm if it is there.

        Names are transformers'. Everything else is shared. Weights of a wider dtype are cast, and
        gradients flow through the cast; narrower ones are widened as they are used.
        """
        cast = {name: narrowed(weight, self.dtype) for name, weight in weights.items()}
        other = copy.copy(self)
        other._layers = [*self._layers]
        other._layers[slice(*layers)] = [_Layer.of(cast, index) for index in range(*layers)]
        if FINAL_NORM in cast:
            other._final_norm = 1.0 + cast[FINAL_NORM].float()
        return other

    def cache(self) -> Cache:
        """An empty cache for this model."""
        width = self.config.kv_heads * self.config.head_dim
        return Cache(self.config.layers, width, dtype=self.dtype, device=self.device)

    @property
    def embedding(self) -> Tensor:
        """``[V, D]``, as it is in the file."""
        return self._tied.table

    def embed(self, ids: Tensor) -> Tensor:
        """``ids [M]`` int64 to ``[M, D]``."""
        return self._tied.embed(ids)

    def head(self, rows: Tensor | None = None) -> Tensor:
        """Rows ``[K]`` of the vocabulary, or all: ``[K, D]`` in this model's dtype."""
        return self._tied.rows(rows)

    def norm(self, h: Tensor) -> Tensor:
        """The final norm, ``[M, D]`` to ``[M, D]``."""
        return rms_norm(h, self._final_norm, self.config.eps)

    def logits(self, h: Tensor, rows: Tensor | None = None) -> Tensor:
        """Normed ``h [M, D]`` to fp32 logits over the vocabulary ``[M, V]``, or over ``rows [K]`` of it."""
        # 2-D on purpose: a 3-D input to a frozen bf16 head is an order of magnitude slower on the CPU.
        return self._tied.logits(h) if rows is None else F.linear(h, self.head(rows)).float()

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
        keep: Tensor | None = None,
    ) -> Tensor:
        """Take packed hidden states ``h [M, D]`` through layers ``[first, last)``.

        With ``keep [P]`` (packed indices, rising, some of every row) only these tokens come out,
        ``[P, D]``: the last layer computes keys and values for all and nothing else for the others.

        With a ``cache``, new keys and values are written behind the past ones of ``cache_rows [B]``
        and attention sees all of the row. ``collect`` receives each layer's new ``(k, v)``, packed
        ``[M, kv_heads * head_dim]``. Without a cache there must be no past.
        """
        if cache is not None and cache.capacity < batch.span:
            raise ValueError(f"the cache holds {cache.capacity} tokens a row, {batch.span} are needed")

        def keep_keys(index: int, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
            """Put a layer's new keys and values where they belong; what each block sees of them."""
            if collect is not None:
                collect.append((k, v))
            if cache is None or cache_rows is None:
                return [(block.pad(k), block.pad(v)) for block in batch.blocks]
            held_k, held_v = cache.k[index], cache.v[index]
            held_k[cache_rows[batch.row], batch.positions] = k
            held_v[cache_rows[batch.row], batch.positions] = v
            rows = [cache_rows[block.rows] for block in batch.blocks]
            return [
                (held_k[row, : block.span], held_v[row, : block.span])
                for row, block in zip(rows, batch.blocks, strict=True)
            ]

        ropes: dict[bool, tuple[Tensor, Tensor]] = {}
        masks: dict[int | None, list[Tensor]] = {}
        queries, kept = batch, None
        for index in range(*layers):
            everywhere = index in self.config.global_layers
            window = None if everywhere or batch.span <= self.config.window else self.config.window
            if keep is not None and index == layers[1] - 1:
                queries, kept, masks = batch.only(keep), keep, {}
            if everywhere not in ropes:
                ropes[everywhere] = self._rope(batch.positions, everywhere)
            if window not in masks:
                masks[window] = self._attention.masks(queries, window, self.dtype)
            place = _Place(queries, kept, ropes[everywhere], masks[window])
            h = self._layer(index, h, place, adapters, keep_keys)
        return h

    def _rope(self, positions: Tensor, everywhere: bool) -> tuple[Tensor, Tensor]:
        angles = positions.float()[:, None] * self._inverse_frequencies[everywhere][None, :]
        angles = torch.cat((angles, angles), dim=-1)[:, None, :]
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def _layer(
        self, index: int, h: Tensor, place: _Place, adapters: Adapting | None, keep_keys: _KeepKeys
    ) -> Tensor:
        c = self.config
        weights = self._layers[index]
        cos, sin = place.rope

        coded = LastCodes()

        def project(target: str, x: Tensor) -> Tensor:
            y = product(x, weights.projections[target], coded)
            return y if adapters is None else adapters.add(index, target, x, y)

        def norm(name: str, x: Tensor) -> Tensor:
            return rms_norm(x, weights.norms[name], c.eps)

        x = norm("input_layernorm", h)
        k = norm("self_attn.k_norm", project("self_attn.k_proj", x).view(-1, c.kv_heads, c.head_dim))
        v = project("self_attn.v_proj", x)
        seen = keep_keys(index, rotate(k, cos, sin).view(len(x), -1), v)
        if place.kept is not None:
            h, x, cos, sin = (each[place.kept] for each in (h, x, cos, sin))
            adapters = None if adapters is None else adapters.on(place.queries)
        q = norm("self_attn.q_norm", project("self_attn.q_proj", x).view(-1, c.heads, c.head_dim))
        x = self._attention.attend(rotate(q, cos, sin), seen, place.queries, place.masks)
        h = h + norm("post_attention_layernorm", project("self_attn.o_proj", x))
        x = norm("pre_feedforward_layernorm", h)
        gate, up = weights.projections["mlp.gate_proj"], weights.projections["mlp.up_proj"]
        if adapters is None and isinstance(gate, PackedMatrix) and isinstance(up, PackedMatrix):
            x = up.times(x, gate.gelu(x))
        else:
            x = F.gelu(project("mlp.gate_proj", x), approximate="tanh") * project("mlp.up_proj", x)
        return h + norm("post_feedforward_layernorm", project("mlp.down_proj", x))


def _plain_name(name: str) -> str:
    """Multimodal checkpoints keep the text model under another prefix."""
    return name.replace("language_model.model.", "model.").replace("model.language_model.", "model.")
