"""What is broken on purpose, and what has to hold while it is. Knows no terminal.

In every drill jobs come all the time, and none may be lost, mixed up or from another version than its receipt
says; each adds what else it is about. A drill leaves the ground as it has found it.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from fleet.chaos.findings import CLIENTS, Drill, DrillFigures, Findings, ready, under_load
from fleet.chaos.ground import REPLICAS, Ground
from fleet.chaos.hang import registry_hangs
from fleet.chaos.load import LoadFigures
from fleet.chaos.poison import poison as send_poison
from fleet.live import Limits
from fleet.registry.version import VersionInfo

CUTS_OFF = "ingress-killed"
"""Who is killed has the connections: this drill alone may break some, one of each client."""
LIVE_SECONDS = 5.0
"""In which a promotion has to be seen everywhere."""
COLD = 50
FLOOD = 256
"""Jobs of one request in a flood, more than may wait for one expert on a replica."""
FLOOD_SECONDS = Limits().seconds / 4
"""Of another expert's jobs in a flood, 99 of 100 are answered within a quarter of the time that a job has."""
ADAPTER = "adapter_model.safetensors"


def run_drill(name: str, ground: Ground, *, seconds: float = 60.0) -> DrillFigures:
    """``seconds`` is how long aliases are flipped. What never comes about is a failure like any other."""
    began, found = time.perf_counter(), Findings()
    try:
        DRILLS[name](ground, seconds, found)
        ground.whole()
    except Exception as error:  # a drill must not keep the others from being run
        found.failures.append(f"{type(error).__name__}: {error}")
        with contextlib.suppress(Exception):
            ground.promote(ground.story[0])
    load = found.load or LoadFigures()
    most = CLIENTS if name == CUTS_OFF else 0
    found.expect(load.broken <= most, f"{load.broken} connections broke, where at most {most} may")
    return DrillFigures(
        name, time.perf_counter() - began, load, found.notes, (*load.failures, *found.failures)
    )


def _kill(name: str) -> Drill:
    """A process of one deployment is killed under load; another one takes its place."""

    def drill(ground: Ground, seconds: float, found: Findings) -> None:
        with under_load(ground, found):
            victim = ground.nodes.processes(name)[0]
            victim.kill()
            began = time.perf_counter()
            ground.until(lambda: ready(ground), "/readyz answers after the kill")
            found.notes["ready_again"] = time.perf_counter() - began

            def replaced() -> bool:
                there = {process.pid for process in ground.nodes.processes(name)} - {victim.pid}
                return len(there) == (REPLICAS if name == "host" else 1)

            ground.until(replaced, f"another {name} has begun")
            ground.whole()
            found.notes["whole_again"] = time.perf_counter() - began

    return drill


def ingress_killed(ground: Ground, seconds: float, found: Findings) -> None:
    """The door is killed under load; a key that was answered before has the same answer afterwards."""
    key = f"drill-{time.time_ns()}"
    first = ground.load().send("story", "hello fox", key=key)
    ground.promote(ground.story[1])
    ground.until(lambda: ground.live(ground.story[1]), "the promotion is seen")
    ground.promote(ground.story[0])
    _kill("ingress")(ground, seconds, found)
    ground.promote(ground.story[1])
    ground.until(lambda: ground.live(ground.story[1]), "the promotion is seen")
    again = ground.load().send("story", "hello fox", key=key)
    ground.promote(ground.story[0])
    same = first is not None and again is not None and first["answers"] == again["answers"]
    found.expect(same, "the same idempotency key had two answers, before and after the ingress died")


def node_lost(ground: Ground, seconds: float, found: Findings) -> None:
    """The machine with all replicas is gone; they come back on another one."""
    with under_load(ground, found):
        ground.nodes.add(cpus=REPLICAS)
        before = {process.pid for process in ground.nodes.processes("host")}
        ground.nodes.lose()
        began = time.perf_counter()

        def elsewhere() -> bool:
            return len({p.pid for p in ground.nodes.processes("host")} - before) == REPLICAS

        ground.until(elsewhere, "the replicas have begun on the other node")
        ground.whole()
        found.notes["whole_again"] = time.perf_counter() - began


def corrupt_artifact(ground: Ground, seconds: float, found: Findings) -> None:
    """A version is promoted whose artifact was altered where it is stored, and one that was never sound."""
    shop = ground.shop

    def unreadable(folder: Path) -> None:
        (folder / ADAPTER).write_bytes(b"\xff" * 64)

    seed = time.time_ns() % 10**9  # so that no replica has it from an earlier drill
    altered = shop.make("story", "story", seed=seed, promote=False)
    _alter(shop.place / f"story-{seed}", shop.place.parent / ".fleet")
    broken = shop.make("story", "story", seed=7, spoil=unreadable, promote=False)
    with under_load(ground, found):
        for bad, kind in ((altered, "altered"), (broken, "unreadable")):
            found.notes[f"{kind}_refused"] = _refused(ground, bad, kind)
            found.expect(
                ground.expert("story").get("version") == ground.story[0].version,
                f"the version before does not answer any more beside the {kind} one",
            )
        ground.promote(ground.story[0])
        ground.whole()


def _refused(ground: Ground, bad: VersionInfo, kind: str) -> float:
    """Promote it; the seconds until the service says that it is refused, and MLflow has been told too."""

    def said_here() -> bool:
        expert = ground.expert("story")
        return expert.get("wanted") == bad.version and expert["reason"] != ""

    def said_there() -> bool:
        tags = ground.shop.registry.version("story", bad.version).tags
        return "refused" in tags.get("serving", "")

    ground.promote(bad)
    seconds = ground.until(said_here, f"the {kind} version is refused with a reason")
    ground.until(said_there, f"a tag in MLflow says why the {kind} version is refused")
    return seconds


def _alter(sound: Path, root: Path) -> None:
    """One bit of what the registry has of an artifact. Raises ``FileNotFoundError`` if it has nothing."""
    content = bytearray((sound / ADAPTER).read_bytes())
    stored = [path for path in root.rglob(ADAPTER) if path.read_bytes() == content]
    if not stored:
        raise FileNotFoundError(f"nothing like {sound / ADAPTER} below {root}")
    content[-1] ^= 1
    for path in stored:
        path.write_bytes(content)


def registry_down(ground: Ground, seconds: float, found: Findings) -> None:
    """MLflow's database is not one any more for a while; then a promotion is followed again."""
    database = ground.shop.place.parent / ".fleet" / "mlflow.db"
    sound = database.read_bytes()
    with under_load(ground, found):
        # In place, for whoever has the file open too.
        database.write_bytes(b"this is not a database, it is a text of some length\n" * 40)
        try:
            ground.until(lambda: ground.state().get("registry_fault", "") != "", "the fault is seen")
            found.expect(ready(ground), "/readyz says no because of the registry")
            load = ground.load()
            for task, text in ground.jobs:
                load.send(task, text)
            found.notes["answered_meanwhile"] = load.figures().answered
            found.failures += load.figures().failures
        finally:
            database.write_bytes(sound)
        found.notes["seen_again"] = ground.until(
            lambda: ground.state().get("registry_fault") == "", "the registry is seen again"
        )
        ground.promote(ground.story[1])
        ground.until(lambda: ground.live(ground.story[1]), "a promotion is followed")
        found.expect(ground.answers(ground.story[1]), "the version that is said to be live does not answer")
        ground.promote(ground.story[0])


def alias_flipped(ground: Ground, seconds: float, found: Findings) -> None:
    """The champion is another version every second; at the end each change is timed by itself."""
    turns = itertools.cycle([*ground.story[1:], ground.story[0]])
    flips = 0
    with under_load(ground, found) as load:
        pause = threading.Event()
        over = time.perf_counter() + seconds
        while time.perf_counter() < over:
            ground.promote(next(turns))
            flips += 1
            pause.wait(1.0)
        answering = load.versions("story")
        took = []
        for info in (*ground.story[1:], ground.story[0]):
            ground.promote(info)
            took.append(ground.until(partial(ground.live, info), "the promotion is live"))
            found.expect(ground.answers(info), "the version that is said to be live does not answer")
    found.notes["flips"] = flips
    found.expect(answering == {info.version for info in ground.story}, f"only {answering} answered meanwhile")
    found.notes["live_after"] = float(np.max(took))
    found.expect(max(took) <= LIVE_SECONDS, f"a promotion took {max(took):.1f} s to be live everywhere")


def flood(ground: Ground, seconds: float, found: Findings) -> None:
    """One expert is asked far more than it can answer; the others' jobs still come through, and soon.

    A job of another expert waits in its own line: less than the flood's jobs wait in theirs, which in one
    line for all it would not.
    """
    quiet, flooded, poured = ground.load(), ground.load(), ground.load()
    others = [(task, text) for task, text in ground.jobs if task == "record"] * 3
    for task, text in others:
        quiet.send(task, text)
    texts = [text for _, text in ground.jobs] * (FLOOD // len(ground.jobs))
    asked = [{"id": f"flood-{n}", "text": text, "task": "story"} for n, text in enumerate(texts)]
    enough, lock, refused, in_line = threading.Event(), threading.Lock(), 0, list[float]()

    def pour() -> None:
        nonlocal refused
        while not enough.is_set():
            response = ground.client.post("/v1/jobs", json={"jobs": asked})
            results = response.json().get("results", []) if response.status_code in (200, 429) else []
            with lock:
                refused += sum(result["code"] == "overloaded" for result in results)
                in_line.extend(_in_line(result) for result in results if result["error"] is None)
                odd = {result["code"] for result in results} - {None, "overloaded"}
                if odd or len(results) != len(asked):
                    found.failures.append(f"the flood was told {response.status_code} {odd}")
            for job, result in zip(asked, results, strict=False):
                if result["error"] is None:
                    poured.judge(result, job["id"], "story", job["text"])

    with ThreadPoolExecutor(8) as pool:
        pouring = [pool.submit(pour) for _ in range(8)]
        try:
            ground.until(lambda: refused > 0 or any(each.done() for each in pouring), "the flood is refused")
            came = [flooded.send(task, text) for task, text in others]
        finally:
            enough.set()
        for each in pouring:
            each.result()
    found.load, before = flooded.figures(), quiet.figures()
    found.notes.update(flood_answered=len(in_line), flood_refused=refused)
    if before.p99_ms is not None:
        found.notes["p99_without_flood"] = before.p99_ms / 1000
    found.failures += poured.figures().failures
    found.expect(refused > 0, "nothing of the flood was refused")
    found.expect(in_line != [], "nothing of the flood was answered")
    found.expect(found.load.again == 0, "jobs of another expert were refused because of the flood")
    p99 = (found.load.p99_ms or 0.0) / 1000
    found.expect(
        p99 <= FLOOD_SECONDS, f"another expert's jobs took {p99:.1f} s at p99, not {FLOOD_SECONDS:.0f}"
    )
    mine = float(np.median([_in_line(result) for result in came if result is not None] or [0.0]))
    theirs = float(np.median(in_line or [0.0]))
    found.notes.update(in_line=mine, flood_in_line=theirs)
    found.expect(
        mine < theirs, f"another expert's jobs stood {mine:.1f} s in line, the flood's {theirs:.1f} s"
    )


def _in_line(result: Mapping[str, Any]) -> float:
    """Seconds that an answered job has waited for its expert's turn."""
    return float(result["answers"][0]["receipt"]["milliseconds"].get("queue", 0.0)) / 1000


def cold(ground: Ground, seconds: float, found: Findings) -> None:
    """Fifty experts become champions at once, and each is asked before it can be in memory."""
    shop, stamp = ground.shop, time.time_ns() % 10**9
    infos = [shop.make(f"cold-{stamp}-{n}", "mood", seed=n, promote=False) for n in range(COLD)]
    tasks = {info.task: info for info in infos}
    with under_load(ground, found, clients=2):
        for info in infos:
            ground.promote(info)
        ground.until(
            lambda: len({each["task"] for each in ground.state().get("experts", ())} & tasks.keys()) == COLD,
            "all of them are known",
        )
        found.notes["not_in_memory"] = sum(
            each["ready_on"] < REPLICAS for each in ground.state()["experts"] if each["task"] in tasks
        )

        found.expect(found.notes["not_in_memory"] != 0, "all were in memory before they were asked")

        def ask(info: VersionInfo) -> tuple[str, float]:
            began = time.perf_counter()
            response = ground.client.post("/v1/jobs", json={"text": "Anna met Bo", "task": info.task})
            took = time.perf_counter() - began
            if response.status_code != 200:
                return f"{info.task}: {response.status_code} {_said(response)}", took
            receipt = response.json()["answers"][0]["receipt"]
            if (receipt["task"], receipt["digest"]) != (info.task, info.digest):
                return f"{info.task} has an answer of {receipt['task']}, {receipt['digest'][:12]}", took
            return "", took

        with ThreadPoolExecutor(COLD) as pool:
            came = list(pool.map(ask, infos))
        found.failures += [fault for fault, _ in came if fault]
        found.notes["slowest_answer"] = max(took for _, took in came)
        for info in infos:
            shop.registry.delete_alias(info.task, shop.registry.champion_alias)
        ground.until(
            lambda: not {each["task"] for each in ground.state().get("experts", ())} & tasks.keys(),
            "they have retired",
        )


def _said(response: httpx.Response) -> str:
    """What went wrong, in the service's words, wherever a response says it."""
    try:
        error = response.json().get("error")
    except ValueError:
        error = None
    return str(error or response.text)[:500]


def poison(ground: Ground, seconds: float, found: Findings) -> None:
    """Requests made to break something; see ``fleet.chaos.poison``."""
    figures = send_poison(ground.address)
    found.failures += figures.failures
    found.notes.update(
        cases=figures.cases,
        statuses=" ".join(f"{status}:{count}" for status, count in figures.statuses.items()),
        slowest=figures.slowest_seconds,
        slowest_case=figures.slowest,
    )
    good = figures.good
    found.load = LoadFigures(good.asked, good.asked - good.lost, 0, good.lost, good.mixed, good.misdated)
    found.expect(good.asked > 0, "no good job was asked beside")


DRILLS: Mapping[str, Drill] = {
    "replica-killed": _kill("host"),
    "watcher-killed": _kill("watcher"),
    CUTS_OFF: ingress_killed,  # after the watcher, whose successor must have the socket too
    "corrupt-artifact": corrupt_artifact,
    "registry-down": registry_down,
    "registry-hangs": registry_hangs,
    "alias-flipped": alias_flipped,
    "flood": flood,
    "cold": cold,
    "poison": poison,
    "node-lost": node_lost,
}
"""By name, in the order in which they are run."""
