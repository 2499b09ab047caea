"""The engine runs on a bare machine that has torch and transformers, and the CLI starts without them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fleet.engine

ENGINE = sorted(
    f"fleet.engine.{path.stem}"
    for path in Path(fleet.engine.__path__[0]).glob("*.py")
    if path.stem not in ("__init__", "testing")
)

BLOCKED = """
import sys
ABSENT = {"ray", "mlflow", "pydantic", "click", "pandas", "sklearn", "rich", "llguidance"}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Block())
"""


def test_the_engine_needs_no_service() -> None:
    code = BLOCKED + "".join(f"import {name}\n" for name in ENGINE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_module_of_the_engine_is_covered() -> None:
    assert "fleet.engine.gemma" in ENGINE
    assert len(ENGINE) > 10
