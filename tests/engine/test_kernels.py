"""A process that meets shape after shape does not grow with them. In processes of their own: the caches
read their sizes once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fleet.engine.kernels import VARIABLES

MEET = """
import psutil, torch
from fleet.engine.kernels import bound_kernels
from fleet.engine.packed import PackedMatrix
from fleet.engine.precision import native_dtype

def private():
    return psutil.Process().memory_full_info().uss / 2**20

bound_kernels()
torch.set_num_threads(1)
dtype = native_dtype()
matrix = PackedMatrix.of(torch.randn(64, 64, dtype=dtype))
with torch.inference_mode():
    matrix.linear(torch.zeros(1, 64, dtype=dtype))
    before = private()
    for rows in range(2, 900):
        matrix.linear(torch.zeros(rows, 64, dtype=dtype))
print(private() - before)
"""


def grown(**environment: str) -> float:
    """MiB, after products of some nine hundred shapes."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    told = subprocess.run(
        [sys.executable, "-c", MEET], env=clean | environment, capture_output=True, text=True, check=True
    )
    return float(told.stdout)


def test_kernels_of_shapes_long_past_are_not_kept() -> None:
    kept = grown(**dict.fromkeys(VARIABLES, "1024"))
    if kept < 100:
        pytest.skip(f"this processor's kernels weigh next to nothing ({kept:.0f} MiB for 900 shapes)")
    assert grown() < 0.6 * kept
    assert grown(**dict.fromkeys(VARIABLES, "16")) < 0.2 * kept, "who sets a size of their own gets it"
