from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest
from ray.cluster_utils import Cluster

from fleet.cluster.session import connect
from fleet.errors import ClusterError

OWN_RAY = """
import psutil, ray
from fleet.cluster.session import connect
with connect(cpus=1) as session:
    assert session.started
    assert [node.cpus for node in session.resources.nodes] == [1.0]
    started = psutil.Process().children(recursive=True)
    # Workers write their titles over their environment, these two do not.
    servers = [process for process in started if process.name() in ("gcs_server", "raylet")]
    assert [process.environ()["RAY_USAGE_STATS_ENABLED"] for process in servers] == ["0", "0"]
    print(*(process.pid for process in started))
assert not ray.is_initialized()
"""


def test_a_process_without_a_cluster_starts_its_own_and_stops_it() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    ran = subprocess.run(
        [sys.executable, "-c", OWN_RAY], env=environment, capture_output=True, text=True, timeout=240
    )
    assert ran.returncode == 0, ran.stderr
    started = [int(pid) for pid in ran.stdout.split()]
    assert len(started) >= 2
    _, alive = psutil.wait_procs([psutil.Process(p) for p in started if psutil.pid_exists(p)], timeout=30)
    assert alive == []


def test_one_process_has_one_ray(ray_cluster: Cluster) -> None:
    with connect() as session:
        assert not session.started
    with connect(session.address) as again:
        assert again.address == session.address
    with pytest.raises(ClusterError, match="already uses the Ray"), connect("elsewhere:6379"):
        pass
