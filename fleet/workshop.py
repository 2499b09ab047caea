"""A tiny fleet to try a service on: experts and a router made within seconds, whatever is in them.

The double that tests and drills use: a random base, real artifacts, a real registry. Knows nothing of hosts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from fleet.engine.adapters import Adapter, AdapterBank, tensor_name
from fleet.engine.base import Base, load_base
from fleet.engine.expert import ExpertCard, golden_prompts, write_expert
from fleet.engine.prompt import Renderer, seal
from fleet.engine.specs import LoraSpec
from fleet.engine.testing import write_tiny_base
from fleet.manifest import Manifest
from fleet.project import Project
from fleet.recipe import task_spec
from fleet.registry.store import ROUTER, Registry, RunRecord
from fleet.registry.version import VersionInfo
from fleet.routing.artifact import save_router
from fleet.routing.fit import fit_router
from fleet.routing.task import RouterTask
from fleet.stores import open_registry

LIMIT = 24
"""Tokens of the longest job of most tasks here,"""
SHORT = 16
"""and of one."""
DIGITS = [f"{n} {n * 7} {n * n} {n + 3}" for n in range(30)]
RUSSIAN = [
    f"{word} посылка пришла {word}" for word in ("да", "нет", "вот", "там", "где", "кто", "как", "они")
]
FOX = [
    f"once upon a time the {word} fox" for word in ("red", "old", "big", "sad", "shy", "wet", "fat", "tan")
]
GREEK = [f"Καλημέρα σε όλους {word}" for word in ("ένα", "δύο", "τρία", "και", "όχι", "ναι", "πού", "πώς")]
ASKS = {
    "mood": [
        f"разбери {word}"
        for word in ("это", "меня", "письмо", "слова", "всё", "их", "нас", "вас", "его", "её")
    ],
    "story": [
        f"tell the {word} tale"
        for word in ("red", "old", "big", "sad", "shy", "wet", "fat", "odd", "new", "tan")
    ],
}
COMPOUND = "tell the fat tale. разбери их"
"""Asks for both."""
RECORD = {
    "type": "object",
    "properties": {
        "who": {"type": "string", "x-verbatim": True},
        "code": {"type": ["string", "null"], "pattern": "^[A-Z]{2}\\d+$"},
    },
    "required": ["who", "code"],
}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "mood": {"kind": "classification", "labels": ["good", "goodish", "🎉 שלום", "bad"]},
    "record": {"kind": "extraction", "schema": RECORD, "serving": {"max_input_tokens": SHORT}},
    "story": {"kind": "generation", "serving": {"max_input_tokens": LIMIT, "max_output_tokens": 12}},
    "letter": {"kind": "classification", "labels": ["a", "b"], "input": ["subject", "body"]},
    "deep": {"kind": "classification", "labels": ["x", "y"], "adapter": {"layers": [0, 6], "rank": 8}},
}
EXPLOSIVE = "zebra"


class Workshop:
    """Makes experts for the tiny base and registers them as champions, whatever is in them."""

    def __init__(self, root: Path, registry: Registry) -> None:
        self.base: Base = load_base(root / "base")
        self.registry = registry
        self.place = root / "made"

    def make(
        self,
        task: str,
        kind: str = "mood",
        *,
        tensors: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
        card: Callable[[dict[str, Any]], None] = lambda card: None,
        spoil: Callable[[Path], None] = lambda folder: None,
        seed: int = 0,
        promote: bool = True,
    ) -> VersionInfo:
        """``tensors`` are changed before the golden prompts are taken, ``card`` and ``spoil`` afterwards."""
        about = {
            "task": task,
            "description": task,
            "data": {"train": "train.jsonl", "eval": "eval.jsonl"},
            "adapter": {"layers": [2, 6], "rank": 4},
            "serving": {"max_input_tokens": LIMIT},
        }
        manifest = Manifest.model_validate({**about, **KINDS[kind]})
        spec = task_spec(manifest)
        assert isinstance(spec.adapter, LoraSpec)
        model = self.base.model
        bank = AdapterBank(model.config, 1, spec.adapter.rank, spec.adapter.layers, dtype=model.dtype)
        bank.initialise(0, spec.adapter, len(task))
        generator = torch.Generator().manual_seed(len(task) + seed)
        made = {
            name: t.detach().float() + 0.1 * torch.randn(t.shape, generator=generator)
            for name, t in bank.parameters(0).items()
        }
        tensors(made)
        adapter = Adapter(spec.adapter, made).as_stored()
        bank.load(0, adapter)
        written = ExpertCard(
            task=task,
            manifest=manifest.snapshot(),
            manifest_digest=manifest.digest,
            data_digest="d",
            base_fingerprint=self.base.fingerprint,
            seal=seal(Renderer.of(self.base.tokenizer), spec),
            temperature=1.0,
            metrics={},
            golden=golden_prompts(self.base, bank, 0, spec, ["Anna met Bo", "14 98 196 17"]),
        )
        folder = self.place / f"{task}-{seed}"
        write_expert(folder, adapter, written, "tiny")
        plain = json.loads((folder / "expert.json").read_text())
        card(plain)
        (folder / "expert.json").write_text(json.dumps(plain))
        spoil(folder)
        info = self.registry.log_version(task, folder, RunRecord(), {})
        if promote:
            self.registry.set_alias(task, self.registry.champion_alias, info.version)
        return info

    def route(self, tasks: Mapping[str, list[str]], asks: Mapping[str, list[str]] | None = None) -> None:
        """A router that knows these tasks by their texts, and by how one ``asks`` for them."""
        known = [
            RouterTask(
                name, texts, (asks or {}).get(name, []), "1", [f"{name}:{n}" for n in range(len(texts))], name
            )
            for name, texts in tasks.items()
        ]
        folder = self.place / f"router-{'-'.join(tasks)}"
        save_router(folder, fit_router(self.base, known, depth=2))
        info = self.registry.log_version(ROUTER, folder, RunRecord(), {}, kind="router")
        self.registry.set_alias(ROUTER, self.registry.champion_alias, info.version)


def explode_on(base: Base, text: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """Sound numbers whose product leaves bf16 for the first token of ``text`` and for no other.

    In the first layer the input of a projection depends on the token alone.
    """
    model = base.model
    token = Renderer.of(base.tokenizer).text_ids(text)[0]
    x = model.embed(torch.arange(model.config.vocab)).float()
    x = torch.nn.functional.rms_norm(x, (model.config.hidden,), eps=model.config.eps)
    x = x * model._layers[0].norms["input_layernorm"]

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for t in tensors.values():
            t.zero_()
        tensors[tensor_name(0, "self_attn.q_proj", "A")][0] = 2 * x[token] / x[token].square().sum()
        tensors[tensor_name(0, "self_attn.q_proj", "B")][:, 0] = 5e37

    return change


def open_shop(root: Path, mlflow_template: Path | None = None) -> Workshop:
    """A project in ``root`` over a tiny base, with an empty registry, and a workshop for it.

    ``mlflow_template`` is a fresh SQLite store to copy: making one takes seconds.
    """
    write_tiny_base(root / "base")
    (root / "fleet.yaml").write_text("name: tiny\nbase: base\ntrunk_layers: 2\n")
    (root / ".fleet").mkdir()
    if mlflow_template is not None:
        shutil.copyfile(mlflow_template, root / ".fleet" / "mlflow.db")
    return Workshop(root, open_registry(Project.find(root)))
