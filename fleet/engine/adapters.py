"""LoRA adapters, and the bank that applies a different adapter to every row. Knows nothing of tasks.

A LoRA adapter (arXiv:2106.09685) adds ``scale * B A x`` to a frozen projection. The bank stacks many:
``A [slots, rank, in]`` and ``B [slots, out, rank]`` per layer and target. Rows of one batch are grouped
by slot, so each adapter in use costs two matrix products per projection whatever the batch holds; from a
few slots on all are multiplied together (``fleet.engine.gathered``), equal to rounding. On disk a LoRA
adapter is PEFT's own format.

A slot may hold a full adapter instead (``fleet.engine.body``): its rows go through a model of their own
above the shared layers, so they take a pass of their own (``pass_of``, ``model``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fleet.engine.batch import Batch
from fleet.engine.body import Body
from fleet.engine.gathered import Gathered, Stacks, pays
from fleet.engine.gemma import Adapting, Gemma
from fleet.engine.gemma_config import GemmaConfig
from fleet.engine.on_demand import zeros_on_demand
from fleet.engine.precision import narrowed, stored
from fleet.engine.specs import LORA_TARGETS, LoraSpec
from fleet.engine.tensor_check import check_tensors
from fleet.errors import ArtifactError

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


def target_shape(config: GemmaConfig, target: str) -> tuple[int, int]:
    """``(out, in)`` of a projection."""
    out, into = config.layer_shapes()[target]
    return out, into


def tensor_name(layer: int, target: str, matrix: str) -> str:
    """The name of a LoRA matrix (``A`` or ``B``) in PEFT's files."""
    return f"base_model.model.model.layers.{layer}.{target}.lora_{matrix}.weight"


def lora_bytes(config: GemmaConfig, rank: int, layers: tuple[int, int]) -> int:
    """What LoRA of this form weighs in bf16, and its place in a bank of this form takes."""
    sides = sum(sum(target_shape(config, target)) for target in LORA_TARGETS)
    return 2 * rank * sides * (layers[1] - layers[0])


@dataclass(frozen=True, slots=True)
class Adapter:
    """One expert's LoRA matrices, by PEFT name: ``A [rank, in]``, ``B [out, rank]``."""

    lora: LoraSpec
    tensors: Mapping[str, Tensor]

    def as_stored(self) -> Adapter:
        """What its files hold."""
        return Adapter(self.lora, stored(self.tensors))

    def check(self, config: GemmaConfig) -> None:
        """Raise ``ArtifactError`` unless every matrix is there, fits the base and is finite."""
        if self.lora.layers[1] > config.layers:
            raise ArtifactError(
                f"the adapter acts on layers {list(self.lora.layers)}, the base has {config.layers}: "
                "it was trained for another base"
            )
        wanted: dict[str, tuple[int, ...]] = {}
        for layer in range(*self.lora.layers):
            for target in LORA_TARGETS:
                out, into = target_shape(config, target)
                wanted[tensor_name(layer, target, "A")] = (self.lora.rank, into)
                wanted[tensor_name(layer, target, "B")] = (out, self.lora.rank)
        check_tensors(self.tensors, wanted)


def save_adapter(folder: Path, adapter: Adapter, base_name: str) -> None:
    """Write PEFT's two files into a folder that exists; bf16, which is what serves it."""
    save_file(stored(adapter.tensors), folder / WEIGHTS_FILE, metadata={"format": "pt"})
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
        # Not mapped: what was checked must not change under a running host when the file does.
        tensors = {name: t.clone() for name, t in load_file(folder / WEIGHTS_FILE).items()}
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
    """``slots`` places for adapters: LoRA of rank up to ``rank`` on layers ``[first, last)``, or any body.

    ``dtype`` is fp32 for training, and the files' bf16 or the base's own for serving; products are taken in
    the activations' dtype. An empty slot adds nothing, and on a CPU takes no memory before it is filled.
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
        self._bodies: dict[int, Body] = {}
        self._models: dict[int, list[tuple[Gemma, Gemma]]] = {}
        self._dtype, self._device = dtype, device
        self._a: dict[tuple[int, str], Tensor] = {}
        self._b: dict[tuple[int, str], Tensor] = {}
        self._views: list[dict[tuple[int, str], tuple[Tensor, Tensor]]] = [{} for _ in range(slots)]
        self._make_stacks(slots)

    @classmethod
    def alone(cls, model: Gemma, adapter: Adapter | Body) -> AdapterBank:
        """A bank for serving one adapter, in slot 0. Raises ``ArtifactError`` if it does not fit the base."""
        if isinstance(adapter, Body):
            rank, layers = 0, adapter.full.layers
        else:
            rank, layers = adapter.lora.rank, adapter.lora.layers
        bank = cls(model.config, 1, rank, layers, dtype=model.dtype, device=model.device)
        bank.load(0, adapter)
        return bank

    @property
    def slots(self) -> int:
        return len(self.loras)

    def holds(self, slot: int) -> bool:
        return self.loras[slot] is not None or slot in self._bodies

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
        with torch.no_grad():
            # Only what it was filled with: around it all is zero, and perhaps no memory yet.
            for pair in self._views[slot].values():
                for matrix in pair:
                    matrix.zero_()
        self.loras[slot] = None
        self._views[slot] = {}
        self._bodies.pop(slot, None)
        self._models.pop(slot, None)

    def grow(self, slots: int, rank: int, first: int) -> None:
        """So many places from now on, of this rank, on layers from ``first``, in a bank that serves.

        What it holds stays as it is, and one layer's projection at a time is there twice. Raises
        ``ValueError`` for less than there is, and while a slot is trained.
        """
        if slots < self.slots or rank < self.rank or first > self.layers[0]:
            raise ValueError("a bank does not shrink")
        if any(a.requires_grad for views in self._views for a, _ in views.values()):
            raise ValueError("what is trained is the bank's own storage, which stays where it is")
        self.rank, self.layers = rank, (first, self.layers[1])
        with torch.inference_mode(False), torch.no_grad():  # tensors like those that it was made with
            self._make_stacks(slots)
        more = slots - len(self.loras)
        self.loras.extend(None for _ in range(more))
        self._views.extend({} for _ in range(more))

    def _make_stacks(self, slots: int) -> None:
        """Stacks of the bank's rank with so many places, and in them what its slots hold."""
        for key in ((layer, target) for layer in range(*self.layers) for target in LORA_TARGETS):
            out, into = target_shape(self.config, key[1])
            a = zeros_on_demand((slots, self.rank, into), dtype=self._dtype, device=self._device)
            b = zeros_on_demand((slots, out, self.rank), dtype=self._dtype, device=self._device)
            for slot, lora in enumerate(self.loras):
                if lora is not None and key in self._views[slot]:
                    here = a[slot, : lora.rank], b[slot, :, : lora.rank]
                    for matrix, before in zip(here, self._views[slot][key], strict=True):
                        matrix.copy_(before)
                    self._views[slot][key] = here
            self._a[key], self._b[key] = a, b

    def load(self, slot: int, adapter: Adapter | Body) -> None:
        """Put a checked adapter into a slot. Raises ``ArtifactError`` and leaves the slot as it was.

        LoRA matrices are copied; of a body only the tensors of a wider dtype or in another place.
        """
        adapter.check(self.config)
        if isinstance(adapter, Body):
            self.clear(slot)
            held = {n: narrowed(t, self._dtype).to(self._device) for n, t in adapter.tensors.items()}
            self._bodies[slot] = Body(adapter.full, held)
            return
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

    def train_body(self, slot: int, body: Body) -> None:
        """Trainable copies of a body's tensors in the bank's dtype, such as of the base's own layers."""
        body.check(self.config)
        self.clear(slot)
        leaves = {
            # A copy even where nothing changes: the optimiser must not write into the base.
            name: t.detach().to(self._device, self._dtype, copy=True).requires_grad_()
            for name, t in body.tensors.items()
        }
        self._bodies[slot] = Body(body.full, leaves)

    def parameters(self, slot: int) -> dict[str, Tensor]:
        """A slot's tensors, by PEFT's or for a body transformers' names; what is written there counts."""
        if slot in self._bodies:
            return dict(self._bodies[slot].tensors)
        return {
            tensor_name(layer, target, matrix): tensor
            for (layer, target), pair in self._views[slot].items()
            for matrix, tensor in zip("AB", pair, strict=True)
        }

    def held(self, slot: int) -> Adapter | Body:
        """What a slot holds: the bank's own tensors, which change with the slot."""
        if not self.holds(slot):
            raise ValueError(f"slot {slot} is empty")
        lora = self.loras[slot]
        return self._bodies[slot] if lora is None else Adapter(lora, self.parameters(slot))

    def adapter(self, slot: int) -> Adapter | Body:
        """A copy of what a slot holds, in fp32 on the CPU."""
        held = self.held(slot)
        copies = {name: t.detach().float().cpu().clone() for name, t in held.tensors.items()}
        return replace(held, tensors=copies)

    def pass_of(self, slot: int) -> int:
        """Rows whose slots give the same number may share a pass above the trunk: -1, or a body's slot."""
        return slot if slot in self._bodies else -1

    def model(self, base: Gemma, slot: int) -> Gemma:
        """What a slot's rows go through: the base, or the base with the slot's body on it."""
        body = self._bodies.get(slot)
        if body is None:
            return base
        if any(t.requires_grad for t in body.tensors.values()):
            return base.with_body(body.full.layers, body.tensors)  # the casts belong to each graph
        made = self._models.setdefault(slot, [])
        for below, model in made:
            if below is base:
                return model
        made.append((base, base.with_body(body.full.layers, body.tensors)))
        return made[-1][1]

    def select(self, slots: Sequence[int], batch: Batch, *, dtype: torch.dtype) -> Adapting:
        """The adapters for a batch whose row *i* belongs to ``slots[i]``; -1 is the bare base.

        Rows of one slot should stand together: every run of equal slots is one group.
        """
        if pays(len(set(slots)), self._device):
            stacks = Stacks(self._a, self._b, self._views, self.loras)
            return Gathered.of(stacks, slots, batch, dtype=dtype)
        return Slots(self, tuple(slots), _groups(slots, batch), dtype)

    def _matrices(self, slot: int, layer: int, target: str) -> tuple[Tensor, Tensor] | None:
        return self._views[slot].get((layer, target))


def _groups(slots: Sequence[int], batch: Batch) -> list[tuple[int, int, int]]:
    """Runs of equal slots as ranges of packed tokens: ``(slot, start, end)``."""
    groups: list[tuple[int, int, int]] = []
    start = 0
    for slot, end in zip(slots, torch.cumsum(batch.lengths, 0).tolist(), strict=True):
        if groups and groups[-1][0] == slot:
            groups[-1] = (slot, groups[-1][1], end)
        else:
            groups.append((slot, start, end))
        start = end
    return groups


@dataclass(frozen=True, slots=True)
class Slots:
    """A batch's adapters: groups of packed tokens ``(slot, start, end)`` in order."""

    bank: AdapterBank
    rows: tuple[int, ...]
    """The slot of each row."""
    groups: list[tuple[int, int, int]]
    dtype: torch.dtype

    def on(self, batch: Batch) -> Slots:
        """The same rows' adapters where they have other numbers of tokens."""
        return Slots(self.bank, self.rows, _groups(self.rows, batch), self.dtype)

    def add(self, layer: int, target: str, x: Tensor, y: Tensor) -> Tensor:
        """``y [M, out]`` plus each group's ``scale * B A x`` for ``x [M, in]``.

        Without gradients ``y`` itself is changed and given back.
        """
        parts: list[Tensor] = []
        training = torch.is_grad_enabled()
        for slot, start, end in self.groups:
            part = y[start:end]
            pair = self.bank._matrices(slot, layer, target) if slot >= 0 else None
            if pair is not None:
                lora = self.bank.loras[slot]
                assert lora is not None
                a, b = pair[0].to(self.dtype), pair[1].to(self.dtype)
                low = torch.mm(x[start:end], a.t())
                if training:
                    part = torch.addmm(part, low, b.t(), alpha=lora.scale)
                else:
                    part.addmm_(low, b.t(), alpha=lora.scale)
            parts.append(part)
        if not training:
            return y
        return parts[0] if len(parts) == 1 else torch.cat(parts)
