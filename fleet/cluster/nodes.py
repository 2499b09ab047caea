"""Several Ray nodes on this one machine, which may be lost one by one. Knows no service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from fleet.cluster.proxy import CALLBACK
from fleet.cluster.session import connect, environment

HEAD: dict[str, Any] = {
    "num_cpus": 0,
    "include_dashboard": False,
    "object_store_memory": 100_000_000,
    # A dead node refuses at once and is known after five seconds; a slow one has its ten each time.
    "_system_config": {"health_check_period_ms": 1000},
}


class Nodes:
    """A head that computes nothing, and nodes beside it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._added: list[Any] = []

    def add(self, cpus: int) -> None:
        """One more machine, so to speak."""
        self._added.append(self._cluster.add_node(num_cpus=cpus, object_store_memory=100_000_000))

    def lose(self) -> None:
        """The oldest node that was added is gone, without a word to anybody. Raises ``IndexError``."""
        self._cluster.remove_node(self._added.pop(0), allow_graceful=False)

    def processes(self, name: str) -> list[psutil.Process]:
        """Those of a deployment of ``fleet.cluster.serving``: ``host``, ``ingress``, ``watcher``."""
        raylets = [
            psutil.Process(node.all_processes["raylet"][0].process.pid)
            for node in self._cluster.list_all_nodes()
        ]
        below = [process for raylet in raylets for process in raylet.children(recursive=True)]
        return [
            process for process in below if _title(process).startswith(f"ray::ServeReplica:taskfleet:{name}")
        ]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


@contextmanager
def local_nodes() -> Iterator[Nodes]:
    """A Ray of its own with this process connected, for the length of a block."""
    with environment(CALLBACK | {"RAY_USAGE_STATS_ENABLED": "0"}):
        cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    try:
        with connect(cluster.address):
            yield Nodes(cluster)
    finally:
        cluster.shutdown()
