"""8-bit products: the lattices, the product, and answers that no company changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import DEPTH, Shop

from fleet.engine.batch import Batch
from fleet.engine.decode import Completion, Scheduler
from fleet.engine.gemma import Gemma
from fleet.engine.int8 import CACHED, ZERO, Codes, Int8Matrix
from fleet.engine.specs import LabelSpec, TextSpec
from fleet.engine.trunk import run_trunk
from fleet.engine.weights import ServedModels


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
    scale = weight.abs().amax(-1, keepdim=True) / 127
    lattice = torch.where(scale > 0, (weight / scale).round() * scale, 0.0)
    got = Int8Matrix.of(weight).linear(codes)
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


def answer(shop: Shop, jobs: list[tuple[TextSpec | LabelSpec, str, int]], model: Gemma) -> list[Completion]:
    scheduler = Scheduler(model, shop.bank, DEPTH, max_rows=3)
    return scheduler.run([shop.request(str(i), *job, model=model) for i, job in enumerate(jobs)])


def test_an_answer_in_8_bits_does_not_depend_on_its_company(shop: Shop) -> None:
    model = shop.base.model.int8()
    labels = LabelSpec(("good", "goodish", "bad"))
    jobs: list[tuple[TextSpec | LabelSpec, str, int]] = [
        (TextSpec(), "Anna met Bo", 0),
        (labels, "so so", 1),
        (TextSpec(), "once upon a time there was", 2),
        (labels, "never again", -1),
        (TextSpec(), "a", 0),
    ]
    together = answer(shop, jobs, model)
    for job, completion in zip(jobs, together, strict=True):
        (alone,) = answer(shop, [job], model)
        assert alone.value == completion.value


def test_the_8_bit_model_is_close_and_shares_what_it_can(shop: Shop) -> None:
    model = shop.base.model
    models = ServedModels.of(model, "int8")
    light = models.reader
    assert models.decoder is None
    assert light.embedding is model.embedding
    ids = torch.arange(5, 45)
    batch = Batch.of([25, 15])
    with torch.inference_mode():
        exact, rounded = (m.run(m.embed(ids), batch, (0, m.config.layers)) for m in (model, light))
    assert not torch.equal(exact, rounded)
    assert float(torch.nn.functional.cosine_similarity(exact.float(), rounded.float()).min()) > 0.97


def test_the_trunk_of_a_job_does_not_depend_on_its_company(shop: Shop) -> None:
    model = shop.base.model.int8()
    jobs = [list(range(5, 5 + n)) for n in (3, 40, 11)]
    for job, state in zip(jobs, run_trunk(model, DEPTH, jobs, taps=(1,)), strict=True):
        (alone,) = run_trunk(model, DEPTH, [job], taps=(1,))
        torch.testing.assert_close(alone.hidden, state.hidden, atol=0.02, rtol=0.05)


def test_weights_in_8_bits_cannot_be_trained(shop: Shop) -> None:
    with pytest.raises(ValueError, match="none that could be trained"):
        shop.base.model.int8().own_weights((2, 4))
