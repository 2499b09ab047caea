"""The GPU bench runs on a machine that has torch and transformers alone; what it measures here is nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = {"parity", "serving", "training", "products", "steps", "profile"}

BARE = """
import sys
for name in ("ray mlflow pydantic click pandas sklearn datasets jsonschema rich psutil peft "
             "llguidance").split():
    sys.modules[name] = None
from benchmarks.device import main
main(["--smoke"])
"""


def test_every_part_runs_without_services_or_weights() -> None:
    written = {part: ROOT / "benchmarks" / "results" / "smoke" / f"device_{part}.json" for part in PARTS}
    for file in written.values():
        file.unlink(missing_ok=True)
    done = subprocess.run([sys.executable, "-c", BARE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reports = {part: json.loads(file.read_text()) for part, file in written.items()}
    for part, report in reports.items():
        assert report["rows"], part
        assert not report["failures"], part
    assert {row["answer"] for row in reports["serving"]["rows"]} == {"label", "text, 3 tokens"}
    assert set(reports["training"]["ratios"]) == {"1 tasks together", "3 tasks together"}
