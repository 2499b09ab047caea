from __future__ import annotations

from pathlib import Path

import pytest

from fleet.engine.testing import write_tiny_base


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")
