"""What a base is computed in where a processor has products of bf16, and where it has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fleet.engine import precision
from fleet.engine.base import Base, load_base
from fleet.engine.batch import Batch
from fleet.engine.loss import head_loss
from fleet.engine.precision import native_dtype
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
    assert {weight.dtype for name, weight in base.model.own_weights((0, 6)).items() if "proj" in name} == {
        base.model.dtype
    }
    # Whatever it computes in, the largest table stays in the file, and its fingerprint is the file's.
    assert base.model.embedding.dtype == torch.bfloat16
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


def test_a_base_in_fp32_files_is_taken_as_it_is(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_tiny_base(tmp_path / "wide")
    file = folder / "model.safetensors"
    save_file({name: t.float() for name, t in load_file(file).items()}, file, metadata={"format": "pt"})
    wide, narrow = load_base(folder, dtype=torch.float32), load_base(folder, dtype=torch.bfloat16)
    assert wide.model.head() is wide.model.embedding
    assert narrow.model.embedding.dtype == torch.bfloat16
