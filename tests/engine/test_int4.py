"""4-bit decoding weights: the lattice, the product, and answers that no company changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import DEPTH, MIXED, Shop

from fleet.engine.decode import Completion, Scheduler
from fleet.engine.int4 import BLOCK, Int4Matrix, snap
from fleet.engine.specs import LabelSpec, TextSpec


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 150), st.integers(1, 4), st.integers(1, 20), st.integers(0, 2**31))
def test_the_product_is_that_of_the_lattice_points(out: int, blocks: int, rows: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, blocks * BLOCK, generator=generator) * 0.05
    weight[0, :BLOCK] = 0  # a block of nothing has no scale
    scale, codes = snap(weight)
    points = (codes - 8).view(out, blocks, BLOCK) * scale[..., None]
    assert int(codes.min()) >= 0
    assert int(codes.max()) <= 15
    # Half a step for most; the end that the signed scale leaves out may be a whole one away.
    off = (points - weight.view_as(points)).abs()
    assert bool((off <= scale.abs()[..., None] * 1.04 + 1e-6).all())
    x = torch.randn(rows, blocks * BLOCK, generator=generator).bfloat16()
    got = Int4Matrix.of(weight.bfloat16().float()).linear(x)
    scale, codes = snap(weight.bfloat16().float())
    points = ((codes - 8).view(out, blocks, BLOCK) * scale[..., None]).view(out, -1)
    assert got.shape == (rows, out)
    torch.testing.assert_close(got.float(), x.float() @ points.t(), atol=0.02, rtol=0.02)


def test_what_has_no_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        Int4Matrix.of(torch.zeros(64, 40))


@pytest.fixture(scope="module")
def shop(tiny_base_folder: Path) -> Shop:
    return Shop(tiny_base_folder)


def answer(shop: Shop, jobs: list[tuple[TextSpec | LabelSpec, str, int]], decode: bool) -> list[Completion]:
    decoder = shop.base.model.int4() if decode else None
    scheduler = Scheduler(shop.base.model, shop.bank, DEPTH, max_rows=3, decoder=decoder)
    return scheduler.run([shop.request(str(i), *job) for i, job in enumerate(jobs)])


def test_an_answer_in_4_bits_does_not_depend_on_its_company(shop: Shop) -> None:
    together = answer(shop, MIXED, True)
    for job, completion in zip(MIXED, together, strict=True):
        (alone,) = answer(shop, [job], True)
        assert alone.value == completion.value
    exact = answer(shop, MIXED, False)
    # Labels end within the first passes, whose weights are the base's own; texts go on in 4 bits.
    assert [c.value for c in exact] != [c.value for c in together]


def test_the_lighter_model_is_close_and_shares_what_it_can(shop: Shop) -> None:
    model = shop.base.model
    light = model.int4()
    assert light.embedding is model.embedding
    h = torch.randn(4, model.config.hidden)
    rows = torch.tensor([3, 9, 11])
    assert torch.equal(light.logits(h, rows), model.logits(h, rows))
    whole, exact = light.logits(h), model.logits(h)
    assert whole.shape == exact.shape
    assert not torch.equal(whole, exact)
    cosine = torch.nn.functional.cosine_similarity(whole, exact)
    assert float(cosine.min()) > 0.97
