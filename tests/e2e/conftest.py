from __future__ import annotations

import os
from pathlib import Path

import pytest

from fleet.engine.base import resolve_base


@pytest.fixture(scope="session")
def real_base_folder() -> Path:
    """Gemma 3 270M, converted into this machine's cache once."""
    cache = Path(os.environ.get("FLEET_CACHE") or "~/.cache/taskfleet").expanduser()
    return resolve_base("gemma-3-270m", cache)
