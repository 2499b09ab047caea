"""Versions in folders as training writes them, and a host's steps to load one. Knows no registry.

LoRA of a starter task's form with random matrices: what they say does not matter, what they weigh does.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.training.course import ROOT
from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.base import Base
from fleet.engine.digest import folder_digest
from fleet.engine.expert import ExpertCard, check_fits, golden_prompts, read_expert, self_check, write_expert
from fleet.engine.prompt import Renderer, seal
from fleet.engine.specs import LoraSpec, TaskSpec
from fleet.manifest import Manifest
from fleet.project import Project
from fleet.recipe import task_spec

KINDS = 4
"""Sets of matrices and golden prompts; making them takes forward passes."""
GOLDEN = (
    "The kettle works well, but the lid is loose.",
    "Great value for money, and it came a day early!",
    "Two weeks of waiting and then the wrong colour. Never again.",
)


@dataclass(frozen=True, slots=True)
class Version:
    folder: Path
    digest: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """An expert in a slot."""

    spec: TaskSpec
    card: ExpertCard
    slot: int


class Shelf:
    """Versions in folders, and how a host loads one."""

    def __init__(self, base: Base, lora: LoraSpec, place: Path) -> None:
        self.base = base
        self.lora = lora
        self.place = place
        self.versions: list[Version] = []
        manifest = Project.find(ROOT).task("sentiment")
        self._snapshot = manifest.snapshot()
        self._kinds = [self._kind(replace(task_spec(manifest), adapter=lora), n) for n in range(KINDS)]

    def write(self) -> None:
        """One version more."""
        number = len(self.versions)
        adapter, card = self._kinds[number % KINDS]
        named = replace(card, extra={"number": number})
        folder = self.place / f"version-{number:04d}"
        self.versions.append(Version(folder, write_expert(folder, adapter, named, "google/gemma-3-270m")))

    def load(self, version: Version, bank: AdapterBank, slot: int) -> tuple[dict[str, float], Loaded]:
        """Into a slot, with the milliseconds of each stage; raises what a host would quarantine for."""
        lap = _Laps()
        if folder_digest(version.folder) != version.digest:
            raise RuntimeError(f"{version.folder.name} changed")
        lap("digest")
        adapter, card = read_expert(version.folder)
        lap("read")
        spec = replace(task_spec(Manifest.model_validate(card.manifest)), adapter=self.lora)
        check_fits(self.base, spec, card)
        lap("seal")
        bank.load(slot, adapter)
        lap("copy")
        return lap.milliseconds, Loaded(spec, card, slot)

    def check(self, bank: AdapterBank, loaded: Loaded) -> None:
        self_check(self.base, bank, loaded.slot, loaded.spec, loaded.card)

    def _kind(self, spec: TaskSpec, seed: int) -> tuple[Adapter, ExpertCard]:
        config, generator = self.base.model.config, torch.Generator().manual_seed(seed)
        scratch = AdapterBank(config, 1, self.lora.rank, self.lora.layers, dtype=torch.float32)
        scratch.initialise(0, self.lora, seed)
        tensors = {
            name: tensor if "lora_A" in name else 0.01 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in scratch.adapter(0).tensors.items()
        }
        adapter = Adapter(self.lora, tensors)
        bank = AdapterBank.alone(self.base.model, adapter)
        card = ExpertCard(
            task=spec.name,
            manifest=self._snapshot,
            manifest_digest="0" * 64,
            data_digest="0" * 64,
            base_fingerprint=self.base.fingerprint,
            seal=seal(Renderer.of(self.base.tokenizer), spec),
            temperature=1.0,
            metrics={},
            golden=golden_prompts(self.base, bank, 0, spec, GOLDEN),
        )
        return adapter, card


def drop_from_cache(folder: Path) -> None:
    """Ask the kernel to forget the files' pages, so that the next reading comes from the disk."""
    for file in folder.iterdir():
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


class _Laps:
    """Milliseconds between calls, by name."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.milliseconds[stage] = (now - self._last) * 1000
        self._last = now
