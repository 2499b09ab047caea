"""A tiny fleet on a Ray of its own, to break things on: nothing of the project it is called from is touched.

Real in every part but the size of its base: an MLflow store, two replicas on a node that may be lost, HTTP
on a loopback address. Knows no drills.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from fleet.chaos.load import Known, Load
from fleet.cluster.nodes import Nodes, local_nodes
from fleet.cluster.serving import HINT_SECRET, ServeArgs, free_port, serving
from fleet.errors import ClusterError
from fleet.host import Host
from fleet.job import Job
from fleet.registry.version import VersionInfo
from fleet.web.keys import KEYS_VARIABLE
from fleet.workshop import RUSSIAN, Workshop, open_shop

REPLICAS = 2
KINDS = ("mood", "record", "story", "letter")
LOADED = ("record", "story")
"""The tasks whose answers are known beforehand."""
TEXTS = ("Anna met Bo", "hello fox", "14 98 196 17", "a parcel", "Oslo", "да нет")
SECONDS = 120.0
"""After which what has not come about will not."""
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Ground:
    """A service that runs."""

    shop: Workshop
    nodes: Nodes
    address: str
    client: httpx.Client
    story: Sequence[VersionInfo]
    """Versions of the story's expert that say different things; the first is champion between drills."""
    known: Known

    def load(self) -> Load:
        """Jobs whose answers will be judged, none sent so far."""
        return Load(self.client, self.known)

    @property
    def jobs(self) -> list[tuple[str, str]]:
        """Task and text, mixed."""
        return [(task, text) for text in TEXTS for task in LOADED]

    def state(self) -> dict[str, Any]:
        """What ``/v1/experts`` says; empty while nobody does."""
        try:
            response = self.client.get("/v1/experts")
            return dict(response.json()) if response.status_code == 200 else {}
        except httpx.HTTPError:
            return {}

    def expert(self, task: str) -> dict[str, Any]:
        """Of the state, one task's; empty if it is none."""
        return next((dict(each) for each in self.state().get("experts", ()) if each["task"] == task), {})

    def promote(self, info: VersionInfo) -> None:
        """What a click in MLflow's UI does."""
        registry = self.shop.registry
        registry.set_alias(info.task, registry.champion_alias, info.version)

    def until(self, condition: Callable[[], bool], what: str) -> float:
        """Wait for what others bring about; the seconds it took. Raises ``ClusterError``."""
        began = time.perf_counter()
        waiting = Retrying(
            retry=retry_if_result(lambda come: not come),
            stop=stop_after_delay(SECONDS),
            wait=wait_fixed(0.05),
        )
        try:
            waiting(condition)
        except RetryError as error:
            raise ClusterError(f"after {SECONDS:.0f} s still not so: {what}") from error
        return time.perf_counter() - began

    def answers(self, info: VersionInfo) -> bool:
        """Whether a job that is sent now is answered by this version, and rightly."""
        load = self.load()
        load.send(info.task, TEXTS[0])
        return load.versions(info.task) == {info.version}

    def live(self, info: VersionInfo) -> bool:
        """Whether every replica answers with this version."""
        expert = self.expert(info.task)
        return (expert.get("version"), expert.get("ready_on")) == (info.version, REPLICAS)

    def whole(self) -> float:
        """Wait until all replicas are there and answer as they should between drills; the seconds it took."""

        def so() -> bool:
            state = self.state()
            return (
                state.get("replicas") == REPLICAS
                and not state.get("registry_fault")
                and all(each["ready_on"] == REPLICAS for each in state["experts"])
                and self.live(self.story[0])
            )

        return self.until(so, "two replicas that are ready for every champion")


@contextmanager
def ground() -> Iterator[Ground]:
    """For the length of a block. Raises ``ClusterError`` when the service does not come up."""
    with _without(KEYS_VARIABLE, HINT_SECRET), tempfile.TemporaryDirectory(prefix="fleet-chaos-") as place:
        shop = open_shop(Path(place))
        for kind in KINDS:
            shop.make(kind, kind)
        shop.route({"mood": RUSSIAN, "story": list(TEXTS)})
        registry = shop.registry
        story = [registry.resolve("story", registry.champion_alias)]
        story += [shop.make("story", "story", seed=seed, promote=False) for seed in (1, 2)]
        champions = [registry.resolve(task, registry.champion_alias) for task in LOADED if task != "story"]
        known = {task: says(shop, infos) for task, infos in _by_task([*champions, *story]).items()}
        if len({tuple(each.items()) for each in known["story"].values()}) < len(story):
            raise ClusterError("two versions of the story say the same, so nobody could tell them apart")
        args = ServeArgs(root=str(shop.place.parent), replicas=REPLICAS, poll_seconds=POLL_SECONDS)
        with local_nodes() as nodes:
            nodes.add(cpus=REPLICAS)
            port = free_port("127.0.0.1", 0)
            address = f"http://127.0.0.1:{port}"
            limits = httpx.Limits(max_connections=None)
            with (
                serving(args, host="127.0.0.1", port=port),
                httpx.Client(base_url=address, timeout=SECONDS, limits=limits) as client,
            ):
                made = Ground(shop, nodes, address, client, story, known)
                made.whole()
                yield made


@contextmanager
def _without(*variables: str) -> Iterator[None]:
    """The environment without what is meant for the fleet of whoever runs this."""
    held = {name: os.environ.pop(name) for name in variables if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


def _by_task(infos: Sequence[VersionInfo]) -> dict[str, list[VersionInfo]]:
    by_task: dict[str, list[VersionInfo]] = {}
    for info in infos:
        by_task.setdefault(info.task, []).append(info)
    return by_task


def says(shop: Workshop, infos: Sequence[VersionInfo]) -> dict[tuple[int, str], dict[str, str]]:
    """What each version says, asked of a host in this process, one text at a time."""
    said: dict[tuple[int, str], dict[str, str]] = {}
    for info in infos:
        host = Host(shop.base, shop.registry, depth=2, cache=shop.place / "cache")
        host.champions = {info.task: info}
        results = [host.answer([Job(text, text=text, task=info.task)])[0] for text in TEXTS]
        said[info.version, info.digest] = {result.id: result.answers[0].text for result in results}
    return said
