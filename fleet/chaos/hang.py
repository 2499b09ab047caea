"""A registry that hangs: it takes every connection and answers none, which no client sees as a failure.

For the length of the drill the ground's service has an MLflow server on its store, whose processes are
stopped under load, not ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from fleet.chaos.findings import Findings, ready, under_load
from fleet.chaos.ground import REPLICAS, Ground
from fleet.registry.ui import ui_server


def registry_hangs(ground: Ground, seconds: float, found: Findings) -> None:
    """MLflow's server is stopped, a replica is killed meanwhile; then a promotion is followed again."""
    with _over_http(ground) as server, under_load(ground, found) as load:
        os.killpg(server, signal.SIGSTOP)
        try:
            found.notes["seen"] = ground.until(
                lambda: ground.state().get("registry_fault", "") != "", "the fault is seen"
            )
            found.expect(ready(ground), "/readyz says no because of the registry")
            before = load.jobs
            _anew(ground, "host")
            found.notes["ended_meanwhile"] = load.jobs - before
            found.expect(load.jobs > before, "no job has ended while the registry hung")
        finally:
            os.killpg(server, signal.SIGCONT)
        found.notes["seen_again"] = ground.until(
            lambda: ground.state().get("registry_fault") == "", "the registry is seen again"
        )
        ground.promote(ground.story[1])
        ground.until(lambda: ground.live(ground.story[1]), "a promotion is followed")
        found.expect(ground.answers(ground.story[1]), "the version that is said to be live does not answer")
        ground.promote(ground.story[0])


@contextmanager
def _over_http(ground: Ground) -> Iterator[int]:
    """The watcher asks a server, and not the database itself; yields the server's process group."""
    root = ground.shop.place.parent
    state, config = root / ".fleet", root / "fleet.yaml"
    was = config.read_text()
    store = f"sqlite:///{state / 'mlflow.db'}"
    try:
        with ui_server(store, state / "artifacts", log=state / "ui.log", port=0) as (address, server):
            config.write_text(f"{was}tracking_uri: {address}\n")
            _anew(ground, "watcher")
            yield server.pid
    finally:
        config.write_text(was)
        _anew(ground, "watcher")


def _anew(ground: Ground, name: str) -> None:
    """Kill a process of a deployment, and wait for the one that takes its place."""
    before = {process.pid for process in ground.nodes.processes(name)}
    ground.nodes.processes(name)[0].kill()
    count = REPLICAS if name == "host" else 1

    def there() -> bool:
        now = {process.pid for process in ground.nodes.processes(name)}
        return len(now) == count and now != before and ground.state().get("replicas") == REPLICAS

    ground.until(there, f"another {name} has begun")
