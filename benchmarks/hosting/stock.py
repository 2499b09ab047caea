"""A scratch fleet that hosts can serve: real base, real registry, experts registered as training does.

Experts are those of ``serving/experts.py``, each with a manifest, a seal and golden prompts of its own; a
version's folder is PEFT's format too, so that a peer loads the very files. Knows nothing of who serves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.serving.experts import write_experts
from benchmarks.serving.workload import LABELS, WORK
from fleet.engine.adapters import Adapter, AdapterBank, load_adapter
from fleet.engine.base import Base, load_base
from fleet.engine.expert import ExpertCard, golden_prompts, write_expert
from fleet.engine.prompt import Renderer, seal
from fleet.engine.specs import LoraSpec, TaskSpec
from fleet.manifest import Manifest
from fleet.project import Project
from fleet.recipe import task_spec
from fleet.registry.store import Registry, RunRecord
from fleet.registry.version import VersionInfo
from fleet.stores import open_registry

GOLDEN = ("The kettle works well, but the lid is loose.", "Two weeks of waiting and then the wrong colour.")


def task_name(expert: int) -> str:
    return f"expert-{expert:03d}"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A distinct adapter and what it says to the golden prompts."""

    adapter: Adapter
    card: ExpertCard


class Stock:
    """The fleet in a folder; experts repeat the adapters that were made when there are more."""

    def __init__(self, root: Path, base: Path, lora: LoraSpec, kinds: int) -> None:
        """Make the project, its store and so many distinct adapters; registers nothing."""
        (root / "fleet.yaml").write_text(f"name: bench\nbase: {base}\ntrunk_layers: {lora.layers[0]}\n")
        (root / ".fleet").mkdir()
        self.root = root
        self.registry: Registry = open_registry(Project.find(root))
        self.base_folder = base
        self.folders: dict[str, Path] = {}
        """The newest version's folder, by task."""
        self._lora = lora
        self._written = 0
        loaded = load_base(base)  # not kept: its pages would count half of a replica's
        self.fingerprint = loaded.fingerprint
        made = write_experts(base, lora, root)[:kinds]
        self._kinds = [self._kind(loaded, load_adapter(folder)) for folder in made]

    def register(self, expert: int, *, promote: bool = True) -> VersionInfo:
        """One version more of an expert; its digest is its own, whatever it says."""
        manifest, kind = self._manifest(expert), self._kinds[expert % len(self._kinds)]
        self._written += 1
        card = replace(
            kind.card,
            task=manifest.task,
            manifest=manifest.snapshot(),
            manifest_digest=manifest.digest,
            extra={"number": self._written},
        )
        folder = self.root / f"version-{self._written:04d}"
        write_expert(folder, kind.adapter, card, "google/gemma-3-270m")
        info = self.registry.log_version(manifest.task, folder, RunRecord(), {})
        if promote:
            self.promote(info)
        self.folders[manifest.task] = folder
        return info

    def promote(self, info: VersionInfo) -> None:
        """What a click in the UI does."""
        self.registry.set_alias(info.task, self.registry.champion_alias, info.version)

    def _manifest(self, expert: int) -> Manifest:
        lora = self._lora
        return Manifest.model_validate(
            {
                "task": task_name(expert),
                "description": "what a text sounds like",
                "kind": "classification",
                "labels": list(LABELS),
                "suffix": WORK["classification"].suffix,
                "data": {"train": "train.jsonl", "eval": "eval.jsonl"},
                "adapter": {"rank": lora.rank, "alpha": lora.alpha, "layers": list(lora.layers)},
            }
        )

    def _kind(self, base: Base, adapter: Adapter) -> _Kind:
        manifest = self._manifest(0)
        spec: TaskSpec = task_spec(manifest)
        bank = AdapterBank.alone(base.model, adapter)
        card = ExpertCard(
            task=manifest.task,
            manifest=manifest.snapshot(),
            manifest_digest=manifest.digest,
            data_digest="0" * 64,
            base_fingerprint=base.fingerprint,
            seal=seal(Renderer.of(base.tokenizer), spec),
            temperature=1.0,
            metrics={},
            golden=golden_prompts(base, bank, 0, spec, GOLDEN),
        )
        return _Kind(adapter, card)


def register_all(stock: Stock, experts: Sequence[int]) -> dict[str, VersionInfo]:
    """Champions by task."""
    return {task_name(expert): stock.register(expert) for expert in experts}
