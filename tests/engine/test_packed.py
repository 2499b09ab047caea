"""Matrices in the kernels' own order: the same numbers, the same answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from shop import DEPTH

from fleet.engine.base import Base, load_base
from fleet.engine.batch import Batch
from fleet.engine.packed import PackedMatrix, PackedParts, can_pack
from fleet.engine.trunk import run_trunk

DTYPES = [
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(
            not can_pack("cpu", torch.bfloat16), reason="this processor has no bf16 products"
        ),
        id="bf16",
    ),
    pytest.param(torch.float32, id="fp32"),
]
ROUNDING = {torch.bfloat16: 2**-7, torch.float32: 1e-5}
"""Of one product: sums in fp32, rounded to the dtype at the end."""
JOBS = [[2, 5, 9, 31], [2, 7], [2, *range(20, 60)]]


@pytest.fixture(params=DTYPES)
def base(request: pytest.FixtureRequest, tiny_base_folder: Path) -> Base:
    return load_base(tiny_base_folder, dtype=request.param)


def drawn(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The difference's length over the first one's."""
    return float((one.float() - other.float()).norm() / one.float().norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 32, 500])
def test_products_are_those_of_the_plain_matrix(rows: int, dtype: torch.dtype) -> None:
    weight, x, other = drawn(dtype, 96, 64) / 8, drawn(dtype, rows, 64), drawn(dtype, rows, 96)
    packed = PackedMatrix.of(weight)
    plain = F.linear(x.float(), weight.float())
    for found, wanted in (
        (packed.linear(x), plain),
        (packed.gelu(x), F.gelu(plain, approximate="tanh")),
        (packed.times(x, other), plain * other.float()),
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), wanted, rtol=ROUNDING[dtype], atol=0.3 * ROUNDING[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_are_the_whole_in_order(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.engine.packed.PART", 40)
    weight, x = drawn(torch.bfloat16, 96, 64) / 8, drawn(dtype, 5, 64)
    found = PackedParts.of(weight, dtype)
    assert len(found.parts) == (1 if dtype == torch.bfloat16 else 3)  # as before where nothing is widened
    torch.testing.assert_close(
        found.linear(x).float(),
        F.linear(x.float(), weight.float()),
        rtol=ROUNDING[dtype],
        atol=0.3 * ROUNDING[dtype],
    )


def test_a_packed_model_computes_what_the_plain_one_does(base: Base) -> None:
    plain, packed = base.model, base.model.packed()
    rounding = ROUNDING[plain.dtype]
    for one, other in zip(run_trunk(plain, DEPTH, JOBS), run_trunk(packed, DEPTH, JOBS), strict=True):
        assert apart(one.hidden, other.hidden) < 1.3 * rounding
    ids = torch.tensor([i for job in JOBS for i in job])
    batch = Batch.of([len(job) for job in JOBS], device="cpu")
    layers = (0, plain.config.layers)
    with torch.inference_mode():
        logits = [m.logits(m.norm(m.run(m.embed(ids), batch, layers))) for m in (plain, packed)]
    assert apart(*logits) < 4 * rounding


def test_the_head_is_packed_only_when_all_of_it_is_multiplied(base: Base) -> None:
    model = base.model
    packed, h = model.packed(), drawn(model.dtype, 2, model.config.hidden)
    packed.logits(h, torch.tensor([1, 5]))
    assert packed._tied._head is None
    torch.testing.assert_close(
        packed.logits(h), model.logits(h), rtol=ROUNDING[model.dtype], atol=0.1 * ROUNDING[model.dtype]
    )
    assert isinstance(packed._tied._head, PackedParts)
    assert isinstance(model._tied._head, torch.Tensor)


def test_a_packed_model_is_neither_trained_against_nor_made_lighter(base: Base) -> None:
    packed = base.model.packed()
    with pytest.raises(ValueError, match="trained against"):
        packed.head()
    with pytest.raises(ValueError, match="lighten it before"):
        packed.int4()


def test_where_there_are_no_such_products_the_model_stays_as_it_is(
    tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_base(tiny_base_folder).model
    monkeypatch.setattr("fleet.engine.gemma.can_pack", lambda device, dtype: False)
    assert model.packed() is model


def test_there_are_none_in_fp64_nor_on_another_device() -> None:
    assert not can_pack("cpu", torch.float64)
    assert not can_pack("cuda:0", torch.bfloat16)
