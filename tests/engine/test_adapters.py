"""The bank: each row gets its own adapter, and PEFT agrees about what an adapter is."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM

from fleet.engine.adapters import Adapter, AdapterBank, load_adapter, lora_bytes, save_adapter
from fleet.engine.batch import Batch
from fleet.engine.gemma import Gemma
from fleet.engine.specs import LoraSpec
from fleet.errors import ArtifactError

LAYERS = (2, 6)


@pytest.fixture(scope="module")
def model(tiny_base_folder: Path) -> Gemma:
    return Gemma.load(tiny_base_folder, dtype=torch.float32)


def random_adapter(model: Gemma, lora: LoraSpec, seed: int) -> Adapter:
    bank = AdapterBank(model.config, 1, lora.rank, lora.layers, dtype=torch.float32)
    bank.initialise(0, lora, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    tensors = {
        # Rounded to bf16 as the files are, so that what is saved is what is compared.
        name: (t + 0.05 * torch.randn(t.shape, generator=generator)).bfloat16().float()
        for name, t in bank.adapter(0).tensors.items()
    }
    return Adapter(lora, tensors)


def logits(
    model: Gemma, ids: list[list[int]], bank: AdapterBank | None, slots: list[int]
) -> list[torch.Tensor]:
    batch = Batch.of([len(row) for row in ids])
    adapters = None if bank is None else bank.select(slots, batch, dtype=model.dtype)
    with torch.no_grad():
        h = model.run(
            model.embed(torch.tensor([t for r in ids for t in r])), batch, (0, 6), adapters=adapters
        )
        return list(model.logits(model.norm(h)).split([len(row) for row in ids]))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 2), st.integers(1, 12)), min_size=1, max_size=6), st.integers(0, 99)
)
def test_a_mixed_batch_is_each_row_with_its_own_adapter(
    model: Gemma, rows: list[tuple[int, int]], seed: int
) -> None:
    loras = [LoraSpec(2, 4.0, LAYERS), LoraSpec(5, 4.0, (3, 6)), LoraSpec(8, 16.0, LAYERS)]
    bank = AdapterBank(model.config, 3, 8, LAYERS, dtype=torch.float32)
    for slot, lora in enumerate(loras):
        bank.load(slot, random_adapter(model, lora, slot))
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(4, model.config.vocab, (n,), generator=generator).tolist() for _, n in rows]
    mixed = logits(model, ids, bank, [slot for slot, _ in rows])
    for row, (slot, _), got in zip(ids, rows, mixed, strict=True):
        (alone,) = logits(model, [row], bank, [slot])
        torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-4)
    if all(slot == -1 for slot, _ in rows):
        for got, bare in zip(mixed, logits(model, ids, None, []), strict=True):
            torch.testing.assert_close(got, bare)


def test_peft_loads_our_adapter_and_gives_our_logits(
    model: Gemma, tiny_base_folder: Path, tmp_path: Path
) -> None:
    adapter = random_adapter(model, LoraSpec(4, 8.0, LAYERS), 7)
    save_adapter(tmp_path, adapter, "tiny")
    plain = AutoModelForCausalLM.from_pretrained(tiny_base_folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, tmp_path).eval()
    bank = AdapterBank(model.config, 2, 4, LAYERS, dtype=torch.float32)
    bank.load(1, load_adapter(tmp_path))
    ids = torch.randint(4, model.config.vocab, (20,), generator=torch.Generator().manual_seed(3)).tolist()
    (ours,) = logits(model, [ids], bank, [1])
    (bare,) = logits(model, [ids], None, [])
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(ours, wanted, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(ours, bare, atol=1e-2)


def test_what_is_saved_is_what_is_loaded(model: Gemma, tmp_path: Path) -> None:
    adapter = random_adapter(model, LoraSpec(4, 8.0, LAYERS), 1)
    save_adapter(tmp_path, adapter, "tiny")
    again = load_adapter(tmp_path)
    assert again.lora == adapter.lora
    assert all(torch.equal(again.tensors[name].float(), t) for name, t in adapter.tensors.items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: {k: v * float("nan") for k, v in t.items()}, "NaN"),
        (lambda t: {k: v[..., :-1] for k, v in t.items()}, "shape"),
        (lambda t: dict(list(t.items())[1:]), "not those of its config"),
    ],
    ids=["nan", "shape", "missing"],
)
def test_a_poisoned_adapter_is_refused_and_its_slot_left_alone(model: Gemma, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    good = random_adapter(model, LoraSpec(4, 8.0, LAYERS), 1)
    bank = AdapterBank(model.config, 1, 4, LAYERS, dtype=torch.float32)
    bank.load(0, good)
    with pytest.raises(ArtifactError, match=message):
        bank.load(0, Adapter(good.lora, spoil(dict(good.tensors))))
    assert all(torch.equal(t, good.tensors[name]) for name, t in bank.adapter(0).tensors.items())


def test_an_adapter_of_another_base_is_refused(model: Gemma) -> None:
    bank = AdapterBank(model.config, 1, 4, (2, 6), dtype=torch.float32)
    other = Adapter(LoraSpec(4, 8.0, (2, 9)), {})
    with pytest.raises(ArtifactError, match="another base"):
        bank.load(0, other)


def test_a_slot_can_be_looked_at_without_a_copy_and_is_zero_once_it_is_empty(model: Gemma) -> None:
    bank = AdapterBank(model.config, 2, 8, LAYERS, dtype=torch.float32)
    first = random_adapter(model, LoraSpec(8, 8.0, LAYERS), 1)
    bank.load(1, first)
    held = bank.held(1)
    assert all(torch.equal(held.tensors[name], t) for name, t in first.tensors.items())
    assert all(t.data_ptr() == bank.parameters(1)[name].data_ptr() for name, t in held.tensors.items())
    # One of lower rank finds nothing of its predecessor in the place that it does not fill.
    bank.load(1, random_adapter(model, LoraSpec(2, 8.0, LAYERS), 2))
    assert all(not stack[1, 2:].any() for stack in bank._a.values())
    assert all(not stack[1, :, 2:].any() for stack in bank._b.values())
    bank.clear(1)
    assert not any(stack.any() for stack in (*bank._a.values(), *bank._b.values()))
    with pytest.raises(ValueError, match="slot 1 is empty"):
        bank.held(1)


def test_a_bank_that_grows_goes_on_as_it_was(model: Gemma) -> None:
    loras = [LoraSpec(2, 4.0, LAYERS), LoraSpec(5, 4.0, (3, 6)), LoraSpec(8, 16.0, LAYERS)]
    bank = AdapterBank(model.config, 4, 8, LAYERS, dtype=torch.float32)
    for slot, lora in enumerate(loras):
        bank.load(slot, random_adapter(model, lora, slot))
    ids = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
    # Gathered and one by one; more places, a higher rank, lower layers.
    for slots, form in (([0, 1, 2], (8, 8, 2)), ([2, 2, 2], (16, 8, 2)), ([2, 1, 0], (16, 12, 0))):
        batch = Batch.of([len(row) for row in ids])
        with torch.inference_mode():
            h = model.embed(torch.tensor([token for row in ids for token in row]))
            before = bank.select(slots, batch, dtype=torch.float32)
            wanted = model.run(h, batch, (0, 6), adapters=before)
            bank.grow(*form)
            # What was selected before the growth too.
            torch.testing.assert_close(model.run(h, batch, (0, 6), adapters=before), wanted)
            after = bank.select(slots, batch, dtype=torch.float32)
            torch.testing.assert_close(model.run(h, batch, (0, 6), adapters=after), wanted)
    assert (bank.slots, bank.rank, bank.layers) == (16, 12, (0, 6))
    assert [slot for slot in range(16) if bank.holds(slot)] == [0, 1, 2]
    last = random_adapter(model, LoraSpec(12, 4.0, (0, 6)), 7)
    bank.load(15, last)
    assert all(torch.equal(bank.held(15).tensors[name], t) for name, t in last.tensors.items())


def test_a_bank_neither_shrinks_nor_moves_what_is_trained(model: Gemma) -> None:
    bank = AdapterBank(model.config, 2, 4, LAYERS, dtype=torch.float32)
    for form in ((1, 4, 2), (2, 3, 2), (2, 4, 3)):
        with pytest.raises(ValueError, match="shrink"):
            bank.grow(*form)
    bank.initialise(0, LoraSpec(4, 4.0, LAYERS), 0)
    leaf = next(iter(bank.parameters(0).values()))
    with pytest.raises(ValueError, match="trained"):
        bank.grow(4, 4, 2)
    assert next(iter(bank.parameters(0).values())) is leaf


@pytest.mark.skipif(sys.platform == "win32", reason="no private maps there")
def test_a_slot_that_is_emptied_takes_no_more_than_it_was_filled_with(model: Gemma) -> None:
    config = replace(model.config, hidden=640, mlp=2048)
    small = AdapterBank(config, 1, 2, (5, 6), dtype=torch.bfloat16)
    small.initialise(0, LoraSpec(2, 2.0, (5, 6)), 0)
    adapter = small.held(0)
    bank = AdapterBank(config, 8, 64, (0, 6), dtype=torch.bfloat16)
    gc.collect()
    before = psutil.Process().memory_full_info().uss
    for slot in range(8):
        bank.load(slot, adapter)
        bank.clear(slot)
        bank.load(slot, adapter)
    taken = psutil.Process().memory_full_info().uss - before
    # One of six layers, whose A is taken up to its rank and whose B is taken whole.
    assert taken < 8 * lora_bytes(config, 64, (5, 6))
