"""Matrices in the kernels' own order: the same numbers, the same answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from shop import DEPTH

from fleet.engine.base import Base, load_base
from fleet.engine.batch import Batch
from fleet.engine.packed import PackedMatrix, can_pack
from fleet.engine.trunk import run_trunk

pytestmark = pytest.mark.skipif(
    not can_pack(torch.zeros(1, 1, dtype=torch.bfloat16)), reason="this processor has no bf16 products"
)
JOBS = [[2, 5, 9, 31], [2, 7], [2, *range(20, 60)]]


@pytest.fixture
def base(tiny_base_folder: Path) -> Base:
    return load_base(tiny_base_folder)


def bf16(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The difference's length over the first one's: a bf16 rounding is 2^-9 of a number."""
    return float((one.float() - other.float()).norm() / one.float().norm())


@pytest.mark.parametrize("rows", [1, 3, 32, 500])
def test_products_are_those_of_the_plain_matrix(rows: int) -> None:
    weight, x, other = bf16(96, 64) / 8, bf16(rows, 64), bf16(rows, 96)
    packed = PackedMatrix.of(weight)
    plain = F.linear(x.float(), weight.float())
    for found, wanted in (
        (packed.linear(x), plain),
        (packed.gelu(x), F.gelu(plain, approximate="tanh")),
        (packed.times(x, other), plain * other.float()),
    ):
        assert found.dtype == torch.bfloat16
        # Sums in fp32, rounded to bf16's 8 bits at the end.
        torch.testing.assert_close(found.float(), wanted, rtol=2**-7, atol=2e-3)


def test_a_packed_model_computes_what_the_plain_one_does(base: Base) -> None:
    plain, packed = base.model, base.model.packed()
    for one, other in zip(run_trunk(plain, DEPTH, JOBS), run_trunk(packed, DEPTH, JOBS), strict=True):
        assert apart(one.hidden, other.hidden) < 0.01
    ids = torch.tensor([i for job in JOBS for i in job])
    batch = Batch.of([len(job) for job in JOBS], device="cpu")
    layers = (0, plain.config.layers)
    with torch.inference_mode():
        logits = [m.logits(m.norm(m.run(m.embed(ids), batch, layers))) for m in (plain, packed)]
    assert apart(*logits) < 0.03


def test_the_head_is_packed_only_when_all_of_it_is_multiplied(base: Base) -> None:
    packed, h = base.model.packed(), bf16(2, base.model.config.hidden)
    packed.logits(h, torch.tensor([1, 5]))
    assert isinstance(packed._head, torch.Tensor)
    torch.testing.assert_close(packed.logits(h), base.model.logits(h), rtol=2**-7, atol=1e-3)
    assert isinstance(packed._head, PackedMatrix)
    assert isinstance(base.model._head, torch.Tensor)


def test_where_there_are_no_such_products_the_model_stays_as_it_is(tiny_base_folder: Path) -> None:
    model = load_base(tiny_base_folder, dtype=torch.float32).model
    assert model.packed() is model
