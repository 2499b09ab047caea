"""A host that never stops, in this process, for a test."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleet.host import Host
from fleet.job import Job, Result
from fleet.live import LiveHost
from fleet.registry.version import VersionInfo
from fleet.roster import Roster
from fleet.workshop import RUSSIAN, Workshop, open_shop

TEXTS = ["Anna met Bo", "hello fox", "14 98 196 17", "a parcel", "Oslo", "да нет"]
SECONDS = 60


def three_experts(root: Path, mlflow_template: Path) -> Workshop:
    """A shop with three kinds of experts, and a router that knows two of them."""
    made = open_shop(root, mlflow_template)
    for kind in ("mood", "record", "story"):
        made.make(kind, kind)
    made.route({"mood": RUSSIAN, "story": TEXTS})
    return made


def story_versions(shop: Workshop) -> dict[int, VersionInfo]:
    """Versions of the story's expert which say different things, by number; the first is champion."""
    made = [shop.registry.resolve("story", "champion")]
    made += [shop.make("story", "story", seed=seed, promote=False) for seed in (1, 2)]
    return {info.version: info for info in made}


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def new_host(shop: Workshop, **options: Any) -> Host:
    return Host(shop.base, shop.registry, depth=2, cache=shop.place / "cache", **options)


@contextmanager
def running(live: LiveHost, roster: Roster) -> Iterator[LiveHost]:
    live.open(roster)
    try:
        yield live
    finally:
        live.close()


def ask(live: LiveHost, job: Job, **options: Any) -> Future[Result]:
    future: Future[Result] = Future()
    live.submit(job, future.set_result, **options)
    return future


def answered(live: LiveHost, job: Job, **options: Any) -> Result:
    return ask(live, job, **options).result(SECONDS)


def said_by(shop: Workshop, info: VersionInfo) -> dict[str, str]:
    """What a version answers to each text when nothing else is going on."""
    host = new_host(shop)
    host.champions = {info.task: info}
    results = host.answer([Job(text, text=text, task=info.task) for text in TEXTS])
    return {result.id: result.answers[0].text for result in results}
