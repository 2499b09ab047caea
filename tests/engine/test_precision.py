"""What a base is computed in where a processor has products of bf16, and where it has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fleet.engine import precision
from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.base import Base, load_base
from fleet.engine.batch import Batch
from fleet.engine.body import Body
from fleet.engine.expert import ExpertCard, read_expert, write_expert
from fleet.engine.loss import head_loss
from fleet.engine.precision import native_dtype
from fleet.engine.specs import FullSpec, LoraSpec
from fleet.engine.testing import write_tiny_base
from fleet.engine.weights import ServedModels


@pytest.fixture(params=[True, False], ids=["bf16", "none"])
def has_bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(precision, "has_bf16_products", lambda: request.param)
    return bool(request.param)


def test_a_base_is_computed_in_what_the_processor_multiplies(has_bf16: bool, tiny_base_folder: Path) -> None:
    base = load_base(tiny_base_folder)
    assert base.model.dtype == (torch.bfloat16 if has_bf16 else torch.float32)
    assert base.model.embed(torch.tensor([5])).dtype == base.model.dtype
    # Whatever it computes in, weights stay in the file, and the fingerprint is the file's.
    matrices = [weight for name, weight in base.model.own_weights((0, 6)).items() if "proj" in name]
    assert {each.dtype for each in (*matrices, base.model.embedding)} == {torch.bfloat16}
    assert base.fingerprint == load_base(tiny_base_folder, dtype=torch.float32).fingerprint


def test_a_gpu_computes_in_bf16(has_bf16: bool) -> None:
    assert native_dtype("cuda:0") == torch.bfloat16


def test_a_build_without_onednn_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        @staticmethod
        def _is_mkldnn_bf16_supported() -> bool:
            raise RuntimeError("not compiled with oneDNN")

    monkeypatch.setattr(torch.ops, "mkldnn", Nothing)
    assert native_dtype() == torch.float32


def logits(base: Base) -> torch.Tensor:
    model = ServedModels.of(base.model, "bf16", 2).reader
    ids = torch.tensor([2, *range(7, 30)])
    with torch.inference_mode():
        batch = Batch.of([len(ids)])
        return model.logits(model.norm(model.run(model.embed(ids), batch, (0, model.config.layers))))


def test_both_say_the_same(tiny_base_folder: Path) -> None:
    wide, narrow = (logits(load_base(tiny_base_folder, dtype=d)) for d in (torch.float32, torch.bfloat16))
    assert float((wide - narrow).norm() / wide.norm()) < 0.03


def test_all_of_the_head_is_widened_once_and_its_rows_alone(tiny_base_folder: Path) -> None:
    model = load_base(tiny_base_folder, dtype=torch.float32).model
    rows = torch.tensor([3, 9])
    assert torch.equal(model.head(rows), model.embedding[rows].float())
    assert model._tied._head is None
    h = torch.randn(4, model.config.hidden, requires_grad=True)
    whole = torch.arange(model.config.vocab)
    losses = [head_loss(model, h, torch.tensor([5, 6, 7, 8]), which) for which in (None, whole)]
    torch.testing.assert_close(*losses)
    assert model.head() is model.head()
    assert torch.equal(model.head(), model.embedding.float())


def test_a_base_in_fp32_files_has_the_same_numbers_whatever_it_is_computed_in(tmp_path: Path) -> None:
    folder = write_tiny_base(tmp_path / "wide")
    file = folder / "model.safetensors"
    finer = {name: 1.001 * tensor.float() for name, tensor in load_file(file).items()}
    save_file(finer, file, metadata={"format": "pt"})
    wide, narrow = (load_base(folder, dtype=dtype).model for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(wide.embedding, narrow.embedding)
    for name, weight in wide.own_weights((0, 6)).items():
        assert torch.equal(weight, narrow.own_weights((0, 6))[name])


def test_a_full_adapter_is_not_held_twice(tiny_base_folder: Path) -> None:
    model = load_base(tiny_base_folder, dtype=torch.float32).model
    body = Body.of(model, FullSpec((2, 6))).as_stored()
    bank = AdapterBank.alone(model, body)
    held = {t.data_ptr() for name, t in bank.parameters(0).items() if "proj" in name}
    assert held == {t.data_ptr() for name, t in body.tensors.items() if "proj" in name}
    ids, batch = torch.tensor([2, *range(7, 30)]), Batch.of([24])
    with torch.inference_mode():
        found, expected = (
            m.run(m.embed(ids), batch, (0, model.config.layers)) for m in (bank.model(model, 0), model)
        )
    torch.testing.assert_close(found, expected)


def test_an_adapter_of_fp32_files_is_read_as_bf16(tmp_path: Path) -> None:
    lora = LoraSpec(rank=2, alpha=4.0, layers=(2, 4))
    config = load_base(write_tiny_base(tmp_path / "base")).model.config
    bank = AdapterBank(config, 1, 2, (2, 4), dtype=torch.float32)
    bank.initialise(0, lora, 0)
    adapter = bank.adapter(0)
    assert isinstance(adapter, Adapter)
    card = ExpertCard("toy", {}, "m", "d", "b", "s", 1.0, {}, ())
    folder = tmp_path / "expert"
    write_expert(folder, adapter, card, "tiny")
    save_file(dict(adapter.tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    read, _ = read_expert(folder)
    assert {tensor.dtype for tensor in read.tensors.values()} == {torch.bfloat16}
