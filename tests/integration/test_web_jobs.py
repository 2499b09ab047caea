"""The web interface over a tiny fleet, through a real port: jobs, what is wrong with them, and health."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import pytest
from service import four_experts, live_service, sent
from waiting import until

from fleet.engine.decode import Completion, Scheduler
from fleet.web.settings import WebSettings
from fleet.workshop import RUSSIAN, Workshop

SECONDS = 60.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    return four_experts(tmp_path_factory.mktemp("fleet"), mlflow_template)


@pytest.fixture(scope="module")
def client(shop: Workshop) -> Iterator[httpx.Client]:
    with live_service(shop) as (address, _), httpx.Client(base_url=address, timeout=SECONDS) as made:
        yield made


def jobs(client: httpx.Client, body: Any, **headers: str) -> httpx.Response:
    return client.post("/v1/jobs", json=body, headers=headers)


def test_a_job_is_routed_and_answered_with_its_receipt(client: httpx.Client) -> None:
    response = jobs(client, {"text": RUSSIAN[3]})
    assert response.status_code == 200
    result = response.json()
    assert result["decision"]["task"] == "mood"
    (answer,) = result["answers"]
    assert answer["receipt"]["version"] == 1
    assert len(answer["receipt"]["digest"]) == 64
    assert answer["value"] in ("good", "goodish", "🎉 שלום", "bad")


def test_several_jobs_have_each_their_own_result_in_order(client: httpx.Client) -> None:
    asked = [
        {"text": "Anna met Bo", "task": "record", "id": "a"},
        {"fields": {"subject": "hello", "body": "bye"}, "task": "letter"},
        {"text": "x", "task": "moods"},
        {"text": "  "},
        {"text": "Anna", "task": ["mood", "record"]},
    ]
    response = jobs(client, {"jobs": asked})
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["id"] for result in results] == ["a", "2", "3", "4", "5"]
    assert [result["code"] for result in results] == [None, None, "unknown-task", "bad-job", None]
    assert "did you mean mood?" in results[2]["error"]
    assert [answer["task"] for answer in results[4]["answers"]] == ["mood", "record"]


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        ({"text": "x", "task": "moods"}, 404, "unknown-task", "did you mean mood?"),
        ({"text": ""}, 422, "bad-job", "is empty"),
        ({"text": "a " * 3000, "task": "mood"}, 422, "bad-job", "mood takes 24"),
        ({"text": "a " * 10_000}, 422, "bad-job", "at most 8192 are read"),
        ({"text": "a " * 1_000_000}, 422, "bad-job", "2,000,000 characters, at most 131,072 are read"),
        ({"fields": {"subject": "hello"}, "task": "letter"}, 422, "bad-job", "no field 'body'"),
    ],
)
def test_a_single_job_s_failure_is_its_status(
    client: httpx.Client, body: Any, status: int, code: str, said: str
) -> None:
    response = jobs(client, body)
    assert response.status_code == status
    assert response.json()["code"] == code
    assert said in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "a job has either text or fields"),
        ({"text": "x", "fields": {"a": "b"}}, "a job has either text or fields"),
        ({"text": "x", "textt": "y"}, "textt"),
        ({"jobs": []}, "jobs"),
        ({"jobs": [{"text": "x"}, {"text": 3}]}, "jobs[1].text"),
        ({"text": "x", "top": 0}, "top"),
        ({"text": "x", "task": []}, "task"),
        ({"text": "x", "seconds": -1}, "seconds"),
        ([{"text": "x"}], "valid dictionary"),
        ("text", "valid dictionary"),
    ],
)
def test_a_request_of_the_wrong_shape_is_told_where(client: httpx.Client, body: Any, said: str) -> None:
    response = jobs(client, body)
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["code"] == "bad-request"
    assert said in error["message"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"text": "\\ud800"}', b""])
def test_what_is_no_json_is_refused(client: httpx.Client, content: bytes) -> None:
    response = client.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500
    assert "error" in response.json()


def test_a_request_that_is_too_large_is_refused_before_it_is_read(shop: Workshop) -> None:
    with live_service(shop, WebSettings(max_body=2000)) as (address, _):
        large = json.dumps({"text": "x" * 3000}).encode()
        response = httpx.post(f"{address}/v1/jobs", content=large, timeout=SECONDS)
        assert response.status_code == 413
        assert "2,000 bytes" in response.json()["error"]["message"]
        response = httpx.post(f"{address}/v1/jobs", content=iter([large]), timeout=SECONDS)
        assert response.status_code == 413


def events(lines: Iterator[str]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, json.loads(line.removeprefix("data: "))))
    return found


def test_a_text_is_streamed_in_pieces_and_ends_with_its_result(client: httpx.Client) -> None:
    body = {"text": "Anna met Bo", "task": "story", "stream": True}
    with client.stream("POST", "/v1/jobs", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        told = events(response.iter_lines())
    assert [name for name, _ in told[:-1]] == ["text"] * (len(told) - 1)
    assert len(told) > 2
    name, result = told[-1]
    assert name == "result"
    assert "".join(text for _, text in told[:-1]) == result["answers"][0]["text"]


def test_the_same_key_gives_the_same_answer_and_no_other_request_takes_it(client: httpx.Client) -> None:
    body = {"text": "Anna met Bo", "task": "mood"}
    with ThreadPoolExecutor(4) as pool:
        same = list(pool.map(lambda _: jobs(client, body, **{"Idempotency-Key": "k1"}), range(8)))
    assert len({response.content for response in same}) == 1
    other = jobs(client, {"text": "Anna met Bob", "task": "mood"}, **{"Idempotency-Key": "k1"})
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "key-reused"


def test_half_a_character_is_told_with_a_key_as_without(client: httpx.Client) -> None:
    body = json.dumps({"text": "half \ud800", "task": "mood"})
    headers = {"Content-Type": "application/json"}
    said = [
        client.post("/v1/jobs", content=body, headers={**headers, **key})
        for key in ({}, {"Idempotency-Key": "half"})
    ]
    assert [response.status_code for response in said] == [422, 422]
    assert said[0].json()["error"] == said[1].json()["error"]  # one job's own error, as its result has it


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No job gets any further until the event is set; the host goes on turning."""
    go_on = threading.Event()
    step = Scheduler.step

    def slow(self: Scheduler) -> list[Completion]:
        return step(self) if go_on.wait(0.01) else []

    monkeypatch.setattr(Scheduler, "step", slow)
    yield go_on
    go_on.set()


def until_waiting(client: httpx.Client, jobs: int) -> None:
    until(lambda: client.get("/v1/experts").json()["waiting"] == jobs)


@pytest.mark.parametrize(("stream", "key"), [(False, {}), (True, {}), (False, {"Idempotency-Key": "left"})])
def test_a_client_that_goes_away_frees_its_place(
    shop: Workshop, held: threading.Event, stream: bool, key: dict[str, str]
) -> None:
    body = {"text": "Anna met Bo", "task": "story", "stream": stream}
    with live_service(shop) as (address, _), httpx.Client(base_url=address, timeout=SECONDS) as client:
        with sent(address, body, key):
            until_waiting(client, 1)
        until_waiting(client, 0)
        held.set()
        assert jobs(client, {**body, "stream": False}, **key).status_code == 200


def test_who_waits_for_the_same_key_is_answered_though_the_first_one_goes_away(
    shop: Workshop, held: threading.Event
) -> None:
    body, key = {"text": "Anna met Bo", "task": "story"}, {"Idempotency-Key": "shared"}
    with (
        live_service(shop) as (address, _),
        httpx.Client(base_url=address, timeout=SECONDS) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        with sent(address, body, key):
            until_waiting(client, 1)
            second = pool.submit(jobs, client, body, **key)
            assert not wait([second], 0.5).done  # it has come, and shares the one job
            until_waiting(client, 1)
        until_waiting(client, 1)
        held.set()
        assert second.result(SECONDS).status_code == 200


def test_a_key_and_a_stream_do_not_go_together(client: httpx.Client) -> None:
    body = {"text": "Anna met Bo", "task": "story", "stream": True}
    response = jobs(client, body, **{"Idempotency-Key": "k2"})
    assert response.status_code == 422
    assert "cannot be given twice" in response.json()["error"]["message"]


def test_health_readiness_and_experts(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["replicas"] == 1
    jobs(client, {"text": "x", "task": "letter"})
    experts = {each["task"]: each for each in client.get("/v1/experts").json()["experts"]}
    assert experts.keys() == {"mood", "record", "story", "letter"}
    assert {each["state"] for each in experts.values()} <= {"ready", "waiting"}
    assert experts["mood"]["version"] == 1
    assert len(experts["mood"]["digest"]) == 64


def test_what_is_not_there_is_told_in_the_same_shape(client: httpx.Client) -> None:
    assert client.get("/v1/job").json()["error"]["code"] == "not-found"
    assert client.get("/v1/jobs").json()["error"]["code"] == "method-not-allowed"


def test_the_interface_describes_itself(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert {"/v1/jobs", "/v1/experts", "/healthz", "/readyz"} <= described["paths"].keys()
