"""The benches of training, routing, scale and limits run; their figures mean nothing here."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import pytest

from benchmarks import bench

EXPECTED = {
    "limit": ("kind", {"bf16 product", "f32 product", "sum", "copy", "prefill", "training", "decode"}),
    "route": ("contender", {"task named", "shared trunk", "encoded apart"}),
    "scale": ("what", {"load, files cached", "load, files from the disk", "champions(), again"}),
    "train": ("trainer", {"ours", "ours, one cohort", "ours, one by one"}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_smoke_run_fills_the_table_and_keeps_its_file_apart(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)

    importlib.import_module(f"benchmarks.{name}").main(["--smoke"])

    (written,) = tmp_path.rglob("*.json")
    assert written == tmp_path / "smoke" / f"{name}.json"
    report = json.loads(written.read_text())
    column, wanted = EXPECTED[name]
    assert wanted <= {row[column] for row in report["rows"]}
    assert report["ratios"]
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in report["ratios"].values())
