"""Adapters and the bank that applies a different one to every row. Knows nothing of tasks or versions.

A LoRA adapter (arXiv:2106.09685) adds ``scale * B A x`` to a frozen projection. The bank stacks many:
``A [slots, rank, in]`` and ``B [slots, out, rank]`` per layer and target. Rows of one batch are grouped
by slot, so each adapter in use costs two matrix products per projection whatever the batch holds, and a
slot's product is the same alone as in company. On disk an adapter is PEFT's own format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fleet.engine.gemma import Batch, Gemma, GemmaConfig
from fleet.engine.specs import LORA_TARGETS, LoraSpec
from fleet.errors import ArtifactError

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


def target_shape(config: GemmaConfig, target: str) -> tuple[int, int]:
    """``(out, in)`` of a projection."""
    attention, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return {
        "self_attn.q_proj": (attention, config.hidden),
        "self_attn.k_proj": (kv, config.hidden),
        "self_attn.v_proj": (kv, config.hidden),
        "self_attn.o_proj": (config.hidden, attention),
        "mlp.gate_proj": (config.mlp, config.hidden),
        "mlp.up_proj": (config.mlp, config.hidden),
        "mlp.down_proj": (config.hidden, config.mlp),
    }[target]


def tensor_name(layer: int, target: str, matrix: str) -> str:
    """The name of a LoRA matrix (``A`` or ``B``) in PEFT's files."""
    return f"base_model.model.model.layers.{layer}.{target}.lora_{matrix}.weight"


@dataclass(frozen=True, slots=True)
class Adapter:
    """One expert's LoRA matrices, by PEFT name: ``A [rank, in]``, ``B [out, rank]``."""

    lora: LoraSpec
    tensors: Mapping[str, Tensor]

    def check(self, config: GemmaConfig) -> None:
        """Raise ``ArtifactError`` unless every matrix is there, fits the base and is finite."""
        if self.lora.layers[1] > config.layers:
            raise ArtifactError(
                f"the adapter acts on layers {list(self.lora.layers)}, the base has {config.layers}: "
                "it was trained for another base"
            )
        wanted: dict[str, tuple[int, int]] = {}
        for layer in range(*self.lora.layers):
            for target in LORA_TARGETS:
                out, into = target_shape(config, target)
                wanted[tensor_name(layer, target, "A")] = (self.lora.rank, into)
                wanted[tensor_name(layer, target, "B")] = (out, self.lora.rank)
        if missing := sorted(wanted.keys() ^ self.tensors.keys()):
            raise ArtifactError(f"the adapter's tensors are not those of its config; first: {missing[0]}")
        for name, shape in wanted.items():
            if tuple(self.tensors[name].shape) != shape:
                got = tuple(self.tensors[name].shape)
                raise ArtifactError(f"adapter tensor {name} has shape {got}, the base needs {shape}")
            if not bool(torch.isfinite(self.tensors[name]).all()):
                raise ArtifactError(f"adapter tensor {name} holds NaN or infinity")


def save_adapter(folder: Path, adapter: Adapter, base_name: str) -> None:
    """Write PEFT's two files into a folder that exists; bf16, which is what serves it."""
    tensors = {
        name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in adapter.tensors.items()
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": adapter.lora.rank,
        "lora_alpha": adapter.lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(target.split(".")[1] for target in LORA_TARGETS),
        "layers_to_transform": list(range(*adapter.lora.layers)),
        "layers_pattern": "layers",
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_adapter(folder: Path) -> Adapter:
    """Read PEFT's two files, our own or another trainer's with the same targets; tensors as stored.

    Raises ``ArtifactError`` for missing or damaged files.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        tensors = load_file(folder / WEIGHTS_FILE)
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        if config.get("use_rslora") or config.get("rank_pattern") or config.get("alpha_pattern"):
            raise ValueError("rank-stabilised or per-layer ranks are not supported")
        layers = {int(name.split(".layers.")[1].split(".")[0]) for name in tensors}
    except (OSError, ValueError, KeyError, IndexError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"{folder.name}: the adapter cannot be read: {error!r}") from error
    touched = sorted(layers)
    if not touched or touched != list(range(touched[0], touched[-1] + 1)):
        raise ArtifactError(f"{folder.name}: the adapter's layers {touched} are not one unbroken range")
    lora = LoraSpec(rank, alpha, (touched[0], touched[-1] + 1))
    return Adapter(lora, tensors)


class AdapterBank:
    """``slots`` places for adapters of rank up to ``rank`` on layers ``[first, last)``.

    ``dtype`` is fp32 for training (products are taken in the activations' dtype) and the base's own
    for serving. An empty slot adds nothing.
    """

    def __init__(
        self,
        config: GemmaConfig,
        slots: int,
        rank: int,
        layers: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: str = "cpu",
    ) -> None:
        self.config = config
        self.layers = layers
        self.rank = rank
        self.loras: list[LoraSpec | None] = [None] * slots
        self._a: dict[tuple[int, str], Tensor] = {}
        self._b: dict[tuple[int, str], Tensor] = {}
        for layer in range(*layers):
            for target in LORA_TARGETS:
                out, into = target_shape(config, target)
                self._a[layer, target] = torch.zeros(slots, rank, into, dtype=dtype, device=device)
                self._b[layer, target] = torch.zeros(slots, out, rank, dtype=dtype, device=device)
        self._views: list[dict[tuple[int, str], tuple[Tensor, Tensor]]] = [{} for _ in range(slots)]

    @classmethod
    def alone(cls, model: Gemma, adapter: Adapter) -> AdapterBank:
        """A bank for serving one adapter, in slot 0. Raises ``ArtifactError`` if it does not fit the base."""
        lora = adapter.lora
        bank = cls(model.config, 1, lora.rank, lora.layers, dtype=model.dtype, device=model.device)
        bank.load(0, adapter)
        return bank

    @property
    def slots(self) -> int:
        return len(self.loras)

    def occupy(self, slot: int, lora: LoraSpec, *, trainable: bool = False) -> None:
        """Give a slot to an adapter of this form; its matrices are zero until loaded or initialised."""
        if lora.rank > self.rank:
            raise ArtifactError(f"the adapter has rank {lora.rank}, the bank holds up to {self.rank}")
        if lora.layers[0] < self.layers[0] or lora.layers[1] > self.layers[1]:
            raise ArtifactError(
                f"the adapter acts on layers {list(lora.layers)}, the bank on {list(self.layers)}"
            )
        self.clear(slot)
        self.loras[slot] = lora
        for layer in range(*lora.layers):
            for target in LORA_TARGETS:
                a = self._a[layer, target][slot, : lora.rank]
                b = self._b[layer, target][slot, :, : lora.rank]
                if trainable:
                    # Leaves that share the stack's storage: the optimiser writes into the bank itself.
                    a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
                self._views[slot][layer, target] = (a, b)

    def clear(self, slot: int) -> None:
        self.loras[slot] = None
        self._views[slot] = {}
        with torch.no_grad():
            for stack in (*self._a.values(), *self._b.values()):
                stack[slot].zero_()

    def load(self, slot: int, adapter: Adapter) -> None:
        """Copy a checked adapter into a slot. Raises ``ArtifactError`` and leaves the slot as it was."""
        adapter.check(self.config)
        self.occupy(slot, adapter.lora)
        with torch.no_grad():
            for name, matrix in self.parameters(slot).items():
                matrix.copy_(adapter.tensors[name])

    def initialise(self, slot: int, lora: LoraSpec, seed: int) -> None:
        """Fresh trainable matrices: A uniform as PEFT's (Kaiming, a = sqrt 5), B zero.

        The generator is the slot's own, so the company in the bank changes nothing.
        """
        self.occupy(slot, lora, trainable=True)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for a, _ in self._views[slot].values():
                bound = 1.0 / math.sqrt(a.shape[1])
                a.copy_((torch.rand(a.shape, generator=generator) * 2 - 1) * bound)

    def parameters(self, slot: int) -> dict[str, Tensor]:
        """A slot's matrices by PEFT name; views into the bank."""
        return {
            tensor_name(layer, target, matrix): tensor
            for (layer, target), pair in self._views[slot].items()
            for matrix, tensor in zip("AB", pair, strict=True)
        }

    def adapter(self, slot: int) -> Adapter:
        """A copy of what a slot holds."""
        lora = self.loras[slot]
        if lora is None:
            raise ValueError(f"slot {slot} is empty")
        return Adapter(
            lora, {name: t.detach().float().cpu().clone() for name, t in self.parameters(slot).items()}
        )

    def select(self, slots: Sequence[int], batch: Batch, *, dtype: torch.dtype) -> Slots:
        """The adapters for a batch whose row *i* belongs to ``slots[i]``; -1 is the bare base.

        Rows of one slot should stand together: every run of equal slots is one group.
        """
        ends = torch.cumsum(batch.lengths, 0).tolist()
        groups: list[tuple[int, int, int]] = []
        start = 0
        for i, slot in enumerate(slots):
            if groups and groups[-1][0] == slot:
                groups[-1] = (slot, groups[-1][1], ends[i])
            else:
                groups.append((slot, start, ends[i]))
            start = ends[i]
        return Slots(self, groups, dtype)

    def _matrices(self, slot: int, layer: int, target: str) -> tuple[Tensor, Tensor] | None:
        return self._views[slot].get((layer, target))


@dataclass(frozen=True, slots=True)
class Slots:
    """A batch's adapters: groups of packed tokens ``(slot, start, end)`` in order."""

    bank: AdapterBank
    groups: list[tuple[int, int, int]]
    dtype: torch.dtype

    def add(self, layer: int, target: str, x: Tensor, y: Tensor) -> Tensor:
        """``y [M, out]`` plus each group's ``scale * B A x`` for ``x [M, in]``."""
        parts: list[Tensor] = []
        changed = False
        for slot, start, end in self.groups:
            part = y[start:end]
            pair = self.bank._matrices(slot, layer, target) if slot >= 0 else None
            if pair is not None:
                lora = self.bank.loras[slot]
                assert lora is not None
                a, b = pair[0].to(self.dtype), pair[1].to(self.dtype)
                low = torch.mm(x[start:end], a.t())
                part = torch.addmm(part, low, b.t(), alpha=lora.scale)
                changed = True
            parts.append(part)
        if not changed:
            return y
        return parts[0] if len(parts) == 1 else torch.cat(parts)
