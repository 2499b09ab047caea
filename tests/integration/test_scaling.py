"""Replicas that come and go with the jobs, on a real Ray Serve."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hosting import TEXTS, three_experts
from ray.cluster_utils import Cluster
from waiting import until

from fleet.cluster import scaling
from fleet.cluster.ingress import SHARE
from fleet.cluster.serving import ServeArgs, free_port, serving

SECONDS = 120.0
JOBS = 3 * SHARE
"""Of one request: far more than a replica should have, in far fewer calls."""


@pytest.fixture
def client(
    tmp_path: Path, mlflow_template: Path, ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    """One replica or two, which come and go at once."""
    monkeypatch.setattr(scaling, "UP_SECONDS", 0.0)
    monkeypatch.setattr(scaling, "DOWN_SECONDS", 0.0)
    monkeypatch.setattr(scaling, "LOOK_BACK_SECONDS", 10.5)  # Serve reports every ten
    shop = three_experts(tmp_path, mlflow_template)
    node = ray_cluster.add_node(num_cpus=2)
    try:
        port = free_port("127.0.0.1", 0)
        args = ServeArgs(root=str(shop.place.parent), replicas=1, max_replicas=2)
        with (
            serving(args, host="127.0.0.1", port=port),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as made,
        ):
            until(lambda: replicas(made) == 1)
            yield made
    finally:
        ray_cluster.remove_node(node)


def replicas(client: httpx.Client) -> int:
    return int(client.get("/v1/experts").json()["replicas"])


def test_a_few_requests_of_many_jobs_bring_another_replica_which_leaves_after_them(
    client: httpx.Client,
) -> None:
    assert JOBS / SHARE < scaling.JOBS_PER_REPLICA < JOBS
    body = {"jobs": [{"text": TEXTS[n % len(TEXTS)], "task": "story"} for n in range(JOBS)]}
    enough = threading.Event()

    def ask() -> set[str | None]:
        faults: set[str | None] = set()
        while not enough.is_set():
            response = client.post("/v1/jobs", json=body)
            faults |= {result["code"] for result in response.json()["results"]}
        return faults

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            until(lambda: replicas(client) == 2 or asking.done())
        finally:
            enough.set()
        assert asking.result() == {None}
    until(lambda: replicas(client) == 1)
