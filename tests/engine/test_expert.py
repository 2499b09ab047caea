"""The artifact: whole and as registered, for this base and prompt, behaving as it did when it was made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.base import Base, load_base
from fleet.engine.expert import ExpertCard, check_fits, golden_prompts, read_expert, self_check, write_expert
from fleet.engine.prompt import Renderer, seal
from fleet.engine.specs import LoraSpec, PromptSpec, SchemaSpec, TaskSpec
from fleet.engine.testing import write_tiny_base
from fleet.errors import ArtifactError, DigestError, SealError

# Keys out of alphabetical order: the order is part of the prompt's seal and must survive the file.
SCHEMA = {
    "type": "object",
    "properties": {"z": {"type": "string"}, "a": {"type": "integer"}},
    "required": ["z", "a"],
}
SPEC = TaskSpec(
    "toy", PromptSpec(suffix="\n\nToy:"), SchemaSpec(SCHEMA), "exact_fields", LoraSpec(4, 8.0, (2, 6))
)


class Made:
    def __init__(self, folder: Path, place: Path) -> None:
        self.base: Base = load_base(folder, dtype=torch.float32)
        self.bank = AdapterBank(self.base.model.config, 2, 4, (2, 6), dtype=torch.float32)
        self.bank.initialise(0, SPEC.adapter, 0)
        generator = torch.Generator().manual_seed(1)
        tensors = {
            name: (t + 0.1 * torch.randn(t.shape, generator=generator)).bfloat16().float()
            for name, t in self.bank.adapter(0).tensors.items()
        }
        self.adapter = Adapter(SPEC.adapter, tensors)
        self.bank.load(0, self.adapter)
        self.card = ExpertCard(
            task="toy",
            manifest={"schema": SCHEMA},
            manifest_digest="m",
            data_digest="d",
            base_fingerprint=self.base.fingerprint,
            seal=seal(Renderer(self.base.tokenizer), SPEC),
            temperature=1.0,
            metrics={},
            golden=golden_prompts(self.base, self.bank, 0, SPEC, ["one job", "another"]),
        )
        self.folder = place
        self.digest = write_expert(place, self.adapter, self.card, "tiny")


@pytest.fixture(scope="module")
def made(tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tiny_base_folder, tmp_path_factory.mktemp("expert") / "artifact")


def test_what_was_written_is_read_fits_and_behaves(made: Made) -> None:
    adapter, card = read_expert(made.folder, digest=made.digest)
    assert card == made.card
    spec = replace(SPEC, constraint=SchemaSpec(card.manifest["schema"]))
    check_fits(made.base, spec, card)
    made.bank.load(1, adapter)
    self_check(made.base, made.bank, 1, spec, card)
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "expert.json",
    ]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "expert.json"])
def test_one_altered_byte_is_refused(made: Made, name: str, tmp_path: Path) -> None:
    for file in made.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(DigestError, match="altered"):
        read_expert(tmp_path, digest=made.digest)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "expert.json"])
def test_a_missing_file_says_so(made: Made, name: str, tmp_path: Path) -> None:
    for file in made.folder.iterdir():
        if file.name != name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_expert(tmp_path)


def test_another_base_or_prompt_is_refused(made: Made, tmp_path: Path) -> None:
    other = load_base(write_tiny_base(tmp_path / "other", seed=5), dtype=torch.float32)
    with pytest.raises(SealError, match="trained over base"):
        check_fits(other, SPEC, made.card)
    with pytest.raises(SealError, match="sealed as"):
        check_fits(made.base, replace(SPEC, prompt=PromptSpec(suffix="\n\nTOY:")), made.card)


def test_other_weights_under_the_same_card_are_noticed(made: Made) -> None:
    flipped = {name: (t if "lora_A" in name else -t) for name, t in made.adapter.tensors.items()}
    made.bank.load(1, Adapter(SPEC.adapter, flipped))
    with pytest.raises(ArtifactError, match="not the weights that were evaluated"):
        self_check(made.base, made.bank, 1, SPEC, made.card)


@pytest.mark.parametrize(("made_in", "checked_in"), [(0, 1), (1, 0)], ids=["fp32 to bf16", "bf16 to fp32"])
def test_a_machine_with_other_products_checks_the_same_expert(
    made: Made, made_in: int, checked_in: int
) -> None:
    bases = [load_base(made.base.folder, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    banks = [AdapterBank.alone(base.model, made.adapter) for base in bases]
    golden = golden_prompts(bases[made_in], banks[made_in], 0, SPEC, ["one job", "another"])
    card = replace(made.card, golden=golden)
    self_check(bases[checked_in], banks[checked_in], 0, SPEC, card)
    flipped = {name: (t if "lora_A" in name else -t) for name, t in made.adapter.tensors.items()}
    other = AdapterBank.alone(bases[checked_in].model, Adapter(SPEC.adapter, flipped))
    with pytest.raises(ArtifactError, match="not the weights that were evaluated"):
        self_check(bases[checked_in], other, 0, SPEC, card)


def test_an_unknown_format_is_refused(made: Made, tmp_path: Path) -> None:
    for file in made.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = json.loads((tmp_path / "expert.json").read_text())
    (tmp_path / "expert.json").write_text(json.dumps({**card, "format": 99}))
    with pytest.raises(ArtifactError, match="format 99"):
        read_expert(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": "warm"}, "cannot be read"),
        ({"golden": [{"job": "x", "tokens": [1, 2], "logits": [0.5]}]}, "do not belong together"),
        ({"golden": [{"job": "x", "tokens": [-1], "logits": [0.5]}]}, "do not belong together"),
        ({"golden": [{"job": "x", "tokens": ["a"], "logits": [0.5]}]}, "cannot be read"),
        ({"golden": 3}, "cannot be read"),
        ({"surprise": 1}, "cannot be read"),
    ],
)
def test_a_card_that_nobody_wrote_is_refused(
    made: Made, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    for file in made.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = json.loads((tmp_path / "expert.json").read_text())
    (tmp_path / "expert.json").write_text(json.dumps({**card, **change}))
    with pytest.raises(ArtifactError, match=message):
        read_expert(tmp_path)


def test_golden_prompts_of_another_vocabulary_are_refused(made: Made) -> None:
    made.bank.load(1, made.adapter)
    golden = replace(made.card.golden[0], tokens=(10**6,), logits=(0.0,))
    with pytest.raises(ArtifactError, match="beyond the base's"):
        self_check(made.base, made.bank, 1, SPEC, replace(made.card, golden=(golden,)))
