"""8-bit products: the lattices, the product, and answers that no company changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import DEPTH, MIXED, Shop

from fleet.engine.base import load_base
from fleet.engine.batch import Batch
from fleet.engine.decode import Completion, Scheduler
from fleet.engine.int8 import CACHED, ZERO, Codes, Int8Matrix, kernel_fault
from fleet.engine.specs import LabelSpec, TextSpec
from fleet.engine.trunk import run_trunk
from fleet.engine.weights import ServedModels

FAULT = kernel_fault()
has_products = pytest.mark.skipif(FAULT is not None, reason=str(FAULT))


def points_of(weight: torch.Tensor) -> torch.Tensor:
    """The lattice points that a matrix is rounded to."""
    scale = weight.float().abs().amax(-1, keepdim=True) / 127
    return torch.where(scale > 0, (weight.float() / scale).round() * scale, 0.0)


@has_products
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, 90), st.integers(1, 20), st.integers(-8, 8), st.integers(0, 2**31))
def test_the_product_is_that_of_the_lattice_points(
    out: int, into: int, rows: int, exponent: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, into, generator=generator) * 0.05
    weight[0] = 0  # an output of nothing has no scale
    x = (torch.randn(rows, into, generator=generator) * 10.0**exponent).bfloat16()
    x[0] = 0
    codes = Codes.of(x)
    points = (codes.codes.float() - ZERO) * codes.scale.float()
    assert float((points - x.float()).abs().max()) <= float(x.abs().max()) / 126 * 0.51
    assert not points[0].any()
    got = Int8Matrix.of(weight).linear(codes)
    lattice = points_of(weight)
    assert got.shape == (rows, out)
    expected = points @ lattice.t()
    size = points.abs().amax(-1, keepdim=True) * weight.abs().amax()
    assert bool(((got.float() - expected).abs() <= 0.02 * expected.abs() + 1e-3 * size).all())


def test_a_row_is_rounded_by_itself() -> None:
    x = torch.randn(3 * CACHED // 2048 + 5, 2048).bfloat16()  # some parts and a rest
    x[7] *= 1e4
    together = Codes.of(x)
    for row in (0, 6, 8, len(x) - 1):
        alone = Codes.of(x[row : row + 1])
        assert torch.equal(alone.codes[0], together.codes[row])
        assert torch.equal(alone.scale[0], together.scale[row])


@has_products
def test_no_row_is_fine_and_nan_stays_nan() -> None:
    matrix = Int8Matrix.of(torch.randn(8, 64))
    assert matrix.linear(Codes.of(torch.empty(0, 64, dtype=torch.bfloat16))).shape == (0, 8)
    x = torch.ones(2, 64, dtype=torch.bfloat16)
    x[0, 3] = float("nan")
    y = matrix.linear(Codes.of(x))
    assert bool(y[0].isnan().all())
    assert bool(y[1].isfinite().all())


@pytest.fixture(scope="module")
def shop(tiny_base_folder: Path) -> Shop:
    return Shop(tiny_base_folder)


@has_products
def test_what_is_rounded_stays_as_it_was() -> None:
    x, weight = torch.randn(5, 64), torch.randn(8, 64)  # fp32: what is converted to it is not a copy
    held_x, held_weight = x.clone(), weight.clone()
    Int8Matrix.of(weight).linear(Codes.of(x))
    assert torch.equal(x, held_x)
    assert torch.equal(weight, held_weight)


@has_products
def test_the_base_s_own_weights_stay_as_they_were(tiny_base_folder: Path) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        model = load_base(tiny_base_folder, dtype=dtype).model
        held = {name: weight.clone() for name, weight in model.own_weights((0, 6)).items()}
        embedding = model.embedding.clone()
        model.int8(0)
        assert torch.equal(model.embedding, embedding)
        assert all(torch.equal(weight, held[name]) for name, weight in model.own_weights((0, 6)).items())


def test_a_processor_whose_kernel_overflows_is_told(shop: Shop) -> None:
    if FAULT is None:
        pytest.skip("this processor's 8-bit products are exact")
    for refused in (lambda: Int8Matrix.of(torch.randn(8, 64)), lambda: shop.base.model.int8(DEPTH)):
        with pytest.raises(ValueError, match=r"VNNI|no 8-bit products"):
            refused()


@has_products
def test_a_kernel_that_overflows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Int8Matrix.linear

    def saturating(self: Int8Matrix, x: Codes) -> torch.Tensor:
        return exact(self, x).clamp(max=2.0**15)

    monkeypatch.setattr(Int8Matrix, "linear", saturating)
    kernel_fault.cache_clear()
    try:
        with pytest.raises(ValueError, match="VNNI"):
            Int8Matrix.of(torch.randn(8, 64))
    finally:
        monkeypatch.undo()
        kernel_fault.cache_clear()


@has_products
def test_the_model_is_that_of_the_lattice_points(shop: Shop) -> None:
    model = shop.base.model
    light = model.int8(DEPTH)
    rounded = {
        name: points_of(weight) if "proj" in name else weight
        for name, weight in model.own_weights((DEPTH, 6)).items()
    }
    reference = model.with_body((DEPTH, 6), rounded)
    ids = torch.arange(5, 45)
    batch = Batch.of([25, 15])
    with torch.inference_mode():
        own, expected, found = (m.run(m.embed(ids), batch, (0, 6)) for m in (model, reference, light))
    off = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert 0 < float(off.max()) < 0.03  # the activations' rounding alone
    assert not torch.equal(expected, own)


@has_products
def test_the_trunk_is_the_base_s_own(shop: Shop) -> None:
    model = shop.base.model
    models = ServedModels.of(model, "int8", DEPTH)
    assert models.decoder is None
    assert models.reader.embedding is model.embedding
    jobs = [list(range(5, 5 + n)) for n in (3, 40, 11)]
    states, exact = (run_trunk(m, DEPTH, jobs, taps=(1,)) for m in (models.reader, model))
    for one, other in zip(states, exact, strict=True):
        assert torch.equal(one.hidden, other.hidden)
        assert torch.equal(one.pooled[1], other.pooled[1])


@has_products
def test_the_whole_head_is_rounded_and_its_rows_are_not(shop: Shop) -> None:
    model = shop.base.model
    light = model.int8(DEPTH)
    h = torch.randn(4, model.config.hidden)
    rows = torch.tensor([3, 9, 11])
    assert torch.equal(light.logits(h, rows), model.logits(h, rows))
    codes = Codes.of(h)
    expected = (codes.codes.float() - ZERO) * codes.scale.float() @ points_of(model.embedding).t()
    torch.testing.assert_close(light.logits(h), expected, atol=1e-3, rtol=0.01)


@has_products
def test_what_serves_in_8_bits_has_its_whole_head_in_8_bits(tiny_base_folder: Path) -> None:
    model = load_base(tiny_base_folder).model
    served, h = ServedModels.of(model, "int8", DEPTH).reader, torch.randn(4, model.config.hidden).bfloat16()
    for _ in range(2):
        assert torch.equal(served.logits(h), model.int8(DEPTH).logits(h))


@has_products
def test_an_answer_in_8_bits_is_the_same_in_company(shop: Shop) -> None:
    # In fp32 what enters the products hardly depends on the company, so that codes are the same.
    model = shop.base.model.int8(DEPTH)

    def answer(jobs: list[tuple[TextSpec | LabelSpec, str, int]]) -> list[Completion]:
        requests = [shop.request(str(i), *job) for i, job in enumerate(jobs)]
        return Scheduler(model, shop.bank, DEPTH, max_rows=3).run(requests)

    for job, completion in zip(MIXED, answer(MIXED), strict=True):
        (alone,) = answer([job])
        assert alone.value == completion.value
        assert alone.confidence == pytest.approx(completion.confidence, rel=0.05)


@has_products
def test_weights_in_8_bits_cannot_be_trained(shop: Shop) -> None:
    with pytest.raises(ValueError, match="none that could be trained"):
        shop.base.model.int8(DEPTH).own_weights((2, 4))
