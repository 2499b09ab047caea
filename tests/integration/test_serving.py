"""The whole service on a real Ray. What it does when something breaks is in ``test_chaos.py``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hosting import TEXTS, story_versions, three_experts
from ray.cluster_utils import Cluster
from ray.serve.schema import DeploymentStatus, DeploymentStatusOverview, DeploymentStatusTrigger
from service import sent
from waiting import until

from fleet.cli.serve import serve
from fleet.cluster.serving import APPLICATION, ServeArgs, free_port, serving
from fleet.errors import ClusterError
from fleet.host import Host
from fleet.job import Job
from fleet.registry.version import VersionInfo
from fleet.web.keys import KEYS_FILE, add_key, revoke_key
from fleet.workshop import RUSSIAN, Workshop

SECONDS = 120.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    return three_experts(tmp_path_factory.mktemp("fleet"), mlflow_template)


@pytest.fixture(scope="module")
def versions(shop: Workshop) -> dict[int, VersionInfo]:
    return story_versions(shop)


@pytest.fixture(scope="module")
def client(shop: Workshop, ray_cluster: Cluster) -> Iterator[httpx.Client]:
    """Two replicas on a node of their own, and a key to ask them with."""
    secret = add_key(shop.place.parent / KEYS_FILE, "tests")
    node = ray_cluster.add_node(num_cpus=2)
    try:
        port = free_port("127.0.0.1", 0)
        args = ServeArgs(root=str(shop.place.parent), replicas=2, poll_seconds=0.2)
        with (
            serving(args, host="127.0.0.1", port=port),
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}",
                timeout=SECONDS,
                headers={"Authorization": f"Bearer {secret}"},
            ) as made,
        ):
            until(lambda: ready_on(made, "story") == 2)
            yield made
    finally:
        ray_cluster.remove_node(node)


def experts(client: httpx.Client) -> dict[str, Any]:
    return {each["task"]: each for each in client.get("/v1/experts").json()["experts"]}


def ready_on(client: httpx.Client, task: str) -> int:
    return int(client.get("/readyz").json()["experts"][task]["ready_on"])


def ask(client: httpx.Client, text: str, task: str | None = None) -> dict[str, Any]:
    body = {"text": text, "id": text, **({} if task is None else {"task": task})}
    response = client.post("/v1/jobs", json=body)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def answered_by(results: list[dict[str, Any]]) -> set[int]:
    return {result["answers"][0]["receipt"]["version"] for result in results}


def said_by(shop: Workshop, info: VersionInfo) -> dict[str, str]:
    host = Host(shop.base, shop.registry, depth=2, cache=shop.place / "cache")
    host.champions = {info.task: info}
    results = host.answer([Job(text, text=text, task=info.task) for text in TEXTS])
    return {result.id: result.answers[0].text for result in results}


def set_alias(shop: Workshop, version: int, alias: str = "champion") -> None:
    """What a click in the UI does."""
    shop.registry.set_alias("story", alias, version)


def test_jobs_are_routed_and_answered_with_their_receipts(client: httpx.Client, shop: Workshop) -> None:
    result = ask(client, RUSSIAN[3])
    assert result["decision"]["task"] == "mood"
    assert result["answers"][0]["receipt"]["digest"] == shop.registry.resolve("mood", "champion").digest
    body = {"jobs": [{"text": text, "task": "record"} for text in TEXTS * 12]}
    results = client.post("/v1/jobs", json=body).json()["results"]
    assert [each["id"] for each in results] == [str(n + 1) for n in range(len(TEXTS) * 12)]
    assert [each["error"] for each in results] == [None] * len(results)


def test_keys_and_metrics_reach_through_all_the_hops(client: httpx.Client, shop: Workshop) -> None:
    file = shop.place.parent / KEYS_FILE
    assert httpx.get(client.base_url.join("/v1/experts")).status_code == 401
    secrets = {
        "part": add_key(file, "part", tasks=("story",)),
        "scraper": add_key(file, "scraper", metrics=True),
    }

    def get(path: str, key: str) -> httpx.Response:
        return client.get(path, headers={"Authorization": f"Bearer {secrets[key]}"})

    until(lambda: get("/v1/experts", "part").status_code == 200)
    refused = client.post(
        "/v1/jobs", json={"text": RUSSIAN[3]}, headers={"Authorization": f"Bearer {secrets['part']}"}
    )
    assert refused.status_code == 403
    assert "mood" not in refused.text
    page = get("/metrics", "scraper").text
    assert "fleet_replicas 2.0" in page
    assert 'fleet_jobs_total{outcome="forbidden",task="-"} 1.0' in page
    for name in secrets:
        revoke_key(file, name)
    until(lambda: get("/v1/experts", "part").status_code == 401)


def test_a_service_that_does_not_start_says_why_and_leaves_nothing(
    shop: Workshop, ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Serve tries for three minutes before it says so; what it says then is of its own making.
    raised = "fleet.errors.InputError: --weights int8: this processor lacks something; use bf16"
    failed = f"The deployment failed to start 3 times in a row.\n  File replica.py, line 1\n{raised}"
    messages = {
        "watcher": (DeploymentStatus.UPDATING, "This may be caused by a slow __init__"),
        "host": (DeploymentStatus.DEPLOY_FAILED, failed),
        "ingress": (DeploymentStatus.UNHEALTHY, "OSError: no space\n"),
    }
    deployments = {
        name: DeploymentStatusOverview(status, DeploymentStatusTrigger.CONFIG_UPDATE_STARTED, {}, message)
        for name, (status, message) in messages.items()
    }
    deleted: list[str] = []

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Deploying application taskfleet failed: Failed to update the deployments")

    running = SimpleNamespace(applications={APPLICATION: SimpleNamespace(deployments=deployments)})
    monkeypatch.setattr("ray.serve.start", lambda **_: None)
    monkeypatch.setattr("ray.serve.run", fail)
    monkeypatch.setattr("ray.serve.status", lambda: running)
    monkeypatch.setattr("ray.serve.delete", deleted.append)
    args = ServeArgs(root=str(shop.place.parent))
    with pytest.raises(ClusterError) as said, serving(args, host="127.0.0.1", port=1):
        raise AssertionError("it has not started")
    assert str(said.value) == (
        "the service does not start: host: --weights int8: this processor lacks something; use bf16; "
        "ingress: OSError: no space"
    )
    assert deleted == [APPLICATION]


def test_fleet_serve_has_an_option_for_each_argument_with_the_same_default() -> None:
    options = {option.name: option for option in serve.params}
    for name, field in ServeArgs.model_fields.items():
        if name in (
            "root",
            "max_replicas",
            "replicas",
            "threads",
            "hint_secret",
        ):  # --root, --replicas MIN-MAX, by the cores; a secret is no one's to read in a list of processes
            continue
        option = options[name]
        if field.default is not None:  # click has a word of its own for none
            assert option.default == field.default


def test_a_text_is_streamed_through_all_the_hops(client: httpx.Client) -> None:
    body = {"text": TEXTS[0], "task": "story", "stream": True}
    with client.stream("POST", "/v1/jobs", json=body) as response:
        lines = [line for line in response.iter_lines() if line.startswith("event: ")]
    assert lines[-1] == "event: result"
    assert lines.count("event: text") > 1


def test_promotions_by_hand_are_followed_and_no_answer_is_lost_or_mixed(
    client: httpx.Client, shop: Workshop, versions: dict[int, VersionInfo]
) -> None:
    said = {number: said_by(shop, info) for number, info in versions.items()}
    done = threading.Event()
    results: list[dict[str, Any]] = []

    def load(number: int) -> None:
        while not done.is_set():
            results.append(ask(client, TEXTS[number % len(TEXTS)], "story"))
            number += 1

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, number) for number in range(4)]
        for number in (2, 3, 1, 3):
            set_alias(shop, number)
            until(lambda number=number: experts(client)["story"]["version"] == number)  # type: ignore[misc]
            until(lambda: ready_on(client, "story") == 2)
            before = len(results)
            until(lambda number=number, before=before: number in answered_by(results[before:]))  # type: ignore[misc]
        done.set()
        for each in loads:
            each.result(SECONDS)
    for result in results:
        receipt = result["answers"][0]["receipt"]
        assert result["answers"][0]["text"] == said[receipt["version"]][result["id"]]
        assert receipt["digest"] == versions[receipt["version"]].digest
    assert answered_by(results) == {1, 2, 3}
    assert ask(client, TEXTS[0], "story")["answers"][0]["receipt"]["version"] == 3


def test_a_broken_version_does_not_go_live_and_says_why_here_and_in_mlflow(
    client: httpx.Client, shop: Workshop
) -> None:
    def spoil(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 64)

    before = experts(client)["story"]["version"]
    bad = shop.make("story", "story", seed=7, spoil=spoil, promote=False)
    set_alias(shop, bad.version)
    until(lambda: "cannot be read" in experts(client)["story"]["reason"])
    assert ask(client, TEXTS[0], "story")["answers"][0]["receipt"]["version"] == before
    until(lambda: "cannot be read" in shop.registry.version("story", bad.version).tags.get("serving", ""))
    assert experts(client)["story"]["wanted"] == bad.version
    set_alias(shop, before)
    until(lambda: experts(client)["story"]["reason"] == "")
    until(lambda: shop.registry.version("story", bad.version).tags.get("serving", "") == "")


def test_a_new_task_appears_and_one_without_champion_retires(client: httpx.Client, shop: Workshop) -> None:
    shop.make("fresh", "mood")
    until(lambda: experts(client).get("fresh", {}).get("ready_on") == 2)
    assert ask(client, TEXTS[0], "fresh")["answers"][0]["task"] == "fresh"
    shop.registry.delete_alias("fresh", "champion")
    until(lambda: "fresh" not in experts(client))
    gone = client.post("/v1/jobs", json={"text": "x", "task": "fresh"})
    assert gone.status_code == 404
    assert gone.json()["code"] == "unknown-task"


def test_who_shares_a_key_is_answered_though_the_client_that_came_first_goes_away(
    client: httpx.Client,
) -> None:
    # As many as may wait for an expert where all of them come to one replica.
    body = {"jobs": [{"text": text, "task": task} for text in TEXTS * 20 for task in ("record", "story")]}
    key = {"Idempotency-Key": "shared"}
    with ThreadPoolExecutor(1) as pool:
        with sent(str(client.base_url).rstrip("/"), body, key):
            second = pool.submit(client.post, "/v1/jobs", json=body, headers=key)
            assert not wait([second], 1).done, "too little work for this test"
        answered = second.result(SECONDS)
    assert answered.status_code == 200
    assert [each["error"] for each in answered.json()["results"]] == [None] * 240
