"""Zeros that take memory only where something was written."""

from __future__ import annotations

import gc
import mmap
import sys

import psutil
import pytest
import torch

from fleet.engine.on_demand import zeros_on_demand

MIB = 2**20


def private() -> int:
    gc.collect()
    return int(psutil.Process().memory_full_info().uss)


@pytest.mark.skipif(sys.platform == "win32", reason="no private maps there")
def test_pages_come_when_they_are_written_and_go_with_the_tensor() -> None:
    before = private()
    zeros = zeros_on_demand((64, 2, MIB), dtype=torch.bfloat16)
    assert private() - before < 16 * MIB
    zeros[:16] = 1.0
    assert 48 * MIB < private() - before < 80 * MIB
    view = zeros[15]
    del zeros
    assert view.float().sum() == 2 * MIB  # a view keeps what it looks at
    assert private() - before > 48 * MIB
    del view
    assert private() - before < 16 * MIB


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 0, 4), (1,)])
def test_they_are_zeros_to_write_into(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    zeros = zeros_on_demand(shape, dtype=dtype)
    assert zeros.shape == shape
    assert zeros.dtype == dtype
    assert zeros.is_contiguous()
    assert torch.equal(zeros, torch.zeros(shape, dtype=dtype))
    zeros += 1
    assert torch.equal(zeros, torch.ones(shape, dtype=dtype))


def test_a_kernel_without_huge_pages_gives_zeros_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(mmap.mmap):
        def madvise(self, *arguments: int) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Refusing)
    assert torch.equal(zeros_on_demand((3, 4), dtype=torch.float32), torch.zeros(3, 4))
