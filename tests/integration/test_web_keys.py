"""API keys over a tiny fleet, through a real port: who comes in, what that one may ask, and how much."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from service import live_service
from waiting import until

from fleet.web.keys import KeySource, add_key, revoke_key
from fleet.web.settings import WebSettings
from fleet.workshop import RUSSIAN, Workshop, open_shop

SECONDS = 60.0
STORIES = ["Anna met Bo", "hello fox", "once upon a time", "a fox and a dog"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    made = open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)
    for kind in ("mood", "record", "story"):
        made.make(kind, kind)
    made.route({"mood": RUSSIAN, "story": STORIES})
    return made


KEYS: Mapping[str, Mapping[str, Any]] = {
    "whole": {},
    "mood": {"tasks": ("mood",)},
    "story": {"tasks": ("story",)},
    "typo": {"tasks": ("mood", "stori")},
    "slow": {"per_minute": 5},
    "twice": {"per_minute": 2},
    "once": {"per_minute": 1},
    "scraper": {"metrics": True},
    "gone": {},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def secrets(file: Path) -> Mapping[str, str]:
    return {name: add_key(file, name, **options) for name, options in KEYS.items()}


@pytest.fixture(scope="module")
def address(shop: Workshop, file: Path, secrets: Mapping[str, str]) -> Iterator[str]:
    with live_service(shop, WebSettings(keys=KeySource(str(file), required=True))) as (made, _):
        yield made


@pytest.fixture(scope="module")
def clients(address: str, secrets: Mapping[str, str]) -> Iterator[Mapping[str, httpx.Client]]:
    """One for each key, by its name."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(
                httpx.Client(base_url=address, timeout=SECONDS, headers={"Authorization": f"Bearer {secret}"})
            )
            for name, secret in secrets.items()
        }


def jobs(client: httpx.Client, body: Any, **headers: str) -> httpx.Response:
    return client.post("/v1/jobs", json=body, headers=headers)


def test_without_a_key_only_probes_and_the_docs_are_answered(address: str) -> None:
    with httpx.Client(base_url=address, timeout=SECONDS) as client:
        for path in ("/v1/experts", "/metrics", "/v1/nothing"):
            assert client.get(path).status_code == 401
        refused = jobs(client, {"text": "x", "task": "mood"}, Authorization="Bearer fleet_wrong")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert "fleet_wrong" not in refused.text
        assert client.get("/healthz").json() == {"status": "alive"}
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["ready"] is True
        assert ready.json()["experts"] == {}
        described = client.get("/openapi.json").json()
        assert "API key" in described["components"]["securitySchemes"]


def test_a_key_without_a_list_asks_everything(clients: Mapping[str, httpx.Client]) -> None:
    whole = clients["whole"]
    assert jobs(whole, {"text": RUSSIAN[0]}).json()["decision"]["task"] == "mood"
    assert jobs(whole, {"text": "x", "task": "moods"}).status_code == 404
    assert whole.get("/readyz").json()["experts"].keys() == {"mood", "record", "story"}


def test_a_named_task_outside_of_the_list_is_forbidden(clients: Mapping[str, httpx.Client]) -> None:
    part = clients["mood"]
    assert jobs(part, {"text": "Anna", "task": "mood"}).status_code == 200
    for task in ("story", "absent", ["mood", "story"]):
        for stream in (False, True):
            refused = jobs(part, {"text": "Anna", "task": task, "stream": stream})
            assert refused.status_code == 403
            assert "may not ask" in refused.text
    asked = [{"text": "Anna", "task": task} for task in ("mood", "story", "mood")]
    results = jobs(part, {"jobs": asked}).json()["results"]
    assert [result["code"] for result in results] == [None, "forbidden", None]
    assert [result["id"] for result in results] == ["1", "2", "3"]


def test_a_job_that_is_routed_outside_of_the_list_is_refused_and_nothing_is_told(
    clients: Mapping[str, httpx.Client],
) -> None:
    part = clients["story"]
    refused = jobs(part, {"text": RUSSIAN[0]})
    assert refused.status_code == 403
    assert refused.json()["code"] == "forbidden"
    assert refused.json()["decision"] is None
    assert "mood" not in refused.text
    with part.stream("POST", "/v1/jobs", json={"text": RUSSIAN[0], "stream": True}) as response:
        told = response.read().decode()
    assert told.startswith("event: result")
    assert json.loads(told.partition("data: ")[2])["code"] == "forbidden"
    assert "mood" not in told
    routed = jobs(part, {"text": STORIES[0]})
    assert routed.json()["decision"]["task"] == "story"
    assert "mood" not in routed.text


def test_of_the_likeliest_experts_only_those_in_the_list_answer(clients: Mapping[str, httpx.Client]) -> None:
    body = {"text": RUSSIAN[0], "top": 2}
    assert [a["task"] for a in jobs(clients["whole"], body).json()["answers"]] == ["mood", "story"]
    told = jobs(clients["mood"], body)
    assert [answer["task"] for answer in told.json()["answers"]] == ["mood"]
    assert "story" not in told.text


def test_only_the_experts_in_the_list_are_shown_or_suggested(clients: Mapping[str, httpx.Client]) -> None:
    part = clients["typo"]
    state = part.get("/v1/experts").json()
    assert [expert["task"] for expert in state["experts"]] == ["mood"]
    assert part.get("/readyz").json()["experts"].keys() == {"mood"}
    absent = jobs(part, {"text": "x", "task": "stori"})
    assert absent.status_code == 404
    assert "story" not in absent.text


def test_jobs_are_counted_and_too_many_a_minute_are_refused(clients: Mapping[str, httpx.Client]) -> None:
    slow, other = clients["slow"], clients["whole"]
    job = {"text": "Anna", "task": "mood"}
    assert jobs(slow, {"jobs": [job] * 6}).status_code == 422
    assert jobs(slow, {"jobs": [job] * 4}).status_code == 200
    refused = jobs(slow, {"jobs": [job] * 2})
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate-limited"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert jobs(slow, {**job, "stream": True}).status_code == 200
    for stream in (False, True):
        assert jobs(slow, {**job, "stream": stream}).status_code == 429
    assert slow.get("/v1/experts").status_code == 200
    assert jobs(other, {"jobs": [job] * 6}).status_code == 200


def test_an_answer_that_is_remembered_is_remembered_for_one_key(clients: Mapping[str, httpx.Client]) -> None:
    one, two = clients["twice"], clients["story"]
    body = {"text": "Anna", "task": "mood"}
    for _ in range(4):  # what is not done again is not counted again
        assert jobs(one, body, **{"Idempotency-Key": "k"}).status_code == 200
    assert jobs(two, body, **{"Idempotency-Key": "k"}).status_code == 403


def test_a_key_that_is_revoked_stops_working_within_seconds(
    clients: Mapping[str, httpx.Client], file: Path
) -> None:
    gone, stays = clients["gone"], clients["whole"]
    assert gone.get("/v1/experts").status_code == 200
    revoke_key(file, "gone")
    until(lambda: jobs(gone, {"text": "x", "task": "mood"}).status_code == 401)
    assert jobs(stays, {"text": "x", "task": "mood"}).status_code == 200


def test_openai_s_client_knows_what_each_refusal_is(address: str, secrets: Mapping[str, str]) -> None:
    def ask(secret: str) -> None:
        with openai.OpenAI(base_url=f"{address}/v1", api_key=secret, max_retries=0) as sdk:
            sdk.post("/jobs", cast_to=object, body={"text": "x", "task": "mood"})

    with pytest.raises(openai.AuthenticationError, match="API key is not known"):
        ask("fleet_wrong")
    with pytest.raises(openai.PermissionDeniedError, match="reads /metrics and nothing else"):
        ask(secrets["scraper"])
    ask(secrets["once"])
    with pytest.raises(openai.RateLimitError, match="1 jobs a minute"):
        ask(secrets["once"])


def test_no_secret_is_logged(
    clients: Mapping[str, httpx.Client],
    secrets: Mapping[str, str],
    file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        late = add_key(file, "late")
        until(lambda: clients["whole"].get("/v1/experts").is_success and "late" in caplog.text)
        for client in clients.values():
            jobs(client, {"text": RUSSIAN[0]})
            jobs(client, {"text": "x"}, Authorization="Bearer fleet_wrong")
    written = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("fleet"))
    assert "API keys are accepted" in written
    for secret in (*secrets.values(), late, "fleet_wrong"):
        assert secret not in written
