from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from fleet.cluster.nodes import HEAD
from fleet.cluster.proxy import CALLBACK
from fleet.cluster.session import connect
from fleet.registry.door import ensure_store
from fleet.registry.store import Registry


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh SQLite store: its migrations take seconds, so they run once and tests copy the file."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    ensure_store(f"sqlite:///{path}", path.parent.as_uri())
    return path


@pytest.fixture
def registry(tmp_path: Path, mlflow_template: Path) -> Registry:
    shutil.copyfile(mlflow_template, tmp_path / "mlflow.db")
    return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """One Ray for all tests: a head with one core, to which tests add nodes that they may kill."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**CALLBACK, "RAY_USAGE_STATS_ENABLED": "0"}.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={**HEAD, "num_cpus": 1})
        try:
            with connect(cluster.address):
                yield cluster
        finally:
            cluster.shutdown()
