"""LoRA adapters made from seeds: they differ as experts do, and answers stay those of a language model.

Saved in PEFT's own format; every contender loads the same files. Knows nothing of who serves them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from fleet.engine.adapters import Adapter, AdapterBank, load_adapter, save_adapter
from fleet.engine.gemma_config import GemmaConfig
from fleet.engine.specs import LoraSpec

DISTINCT = 16
"""Adapters that are really made: beyond these, experts repeat them but keep bank slots of their own."""
SPREAD = 0.03
"""Standard deviation of B: four of ten labels are others than the base's, and text is still English."""


def write_experts(base: Path, lora: LoraSpec, folder: Path) -> list[Path]:
    """One folder in PEFT's format for each of the distinct experts over a base's shapes."""
    scratch = AdapterBank(_config(base), 1, lora.rank, lora.layers, dtype=torch.float32)
    folders = []
    for seed in range(DISTINCT):
        scratch.initialise(0, lora, seed)
        generator = torch.Generator().manual_seed(seed)
        tensors = dict(scratch.adapter(0).tensors)
        for name, tensor in tensors.items():
            if "lora_B" in name:  # zero, as training starts
                tensors[name] = SPREAD * torch.randn(tensor.shape, generator=generator)
        place = folder / f"expert-{seed}"
        place.mkdir()
        save_adapter(place, Adapter(lora, tensors), "base")
        folders.append(place)
    return folders


def filled_bank(
    base: Path, lora: LoraSpec, folders: Sequence[Path], slots: int, dtype: torch.dtype
) -> AdapterBank:
    """A bank with an adapter in every slot; what was made is repeated when there are more slots."""
    bank = AdapterBank(_config(base), slots, lora.rank, lora.layers, dtype=dtype)
    adapters = [load_adapter(folder) for folder in folders[:slots]]
    for slot in range(slots):
        bank.load(slot, adapters[slot % len(adapters)])
    return bank


def _config(base: Path) -> GemmaConfig:
    return GemmaConfig.from_json(json.loads((base / "config.json").read_text()))
