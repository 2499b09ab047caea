from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fleet.engine.base import Base, load_base
from fleet.engine.base_folder import fingerprint
from fleet.engine.prompt import Renderer

# Of the packaged weights as converted here; it changes only with them or with the conversion.
PACKAGED = "dbec31535e213d06bf3b4fa62f327f33f83e268bd11d51a99dcb69770816b5dc"


@pytest.fixture(scope="module")
def base(real_base_folder: Path) -> Base:
    return load_base(real_base_folder)


def test_the_real_base_is_whole_and_its_fingerprint_stable(base: Base) -> None:
    assert len(base.tokenizer) == base.model.config.vocab == 262_144
    assert base.model.config.global_layers == {5, 11, 17}
    assert fingerprint(base.folder, verify=True) == base.fingerprint == load_base(base.folder).fingerprint
    if base.folder.name.startswith("gemma-3-270m-q4_k_m"):  # else it came from the hub's cache
        assert base.fingerprint == PACKAGED


def test_its_weights_are_mapped_and_not_copied(base: Base) -> None:
    with Path("/proc/self/maps").open() as maps:
        assert any(line.rstrip().endswith(str(base.folder / "model.safetensors")) for line in maps)


def test_transformers_reads_the_same_folder_and_knows_the_week(base: Base) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    text = "Monday, Tuesday, Wednesday, Thursday,"
    ids = tokenizer(text).input_ids
    assert ids == Renderer(base.tokenizer).job_ids(text)
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.bfloat16)
    model.lm_head.weight.requires_grad_(True)  # a frozen 3-D head product is far slower on the CPU
    with torch.no_grad():
        best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    assert tokenizer.decode([best]) == " Friday"
