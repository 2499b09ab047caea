"""Requests made to break the service: each is told what is wrong with it, or answered; nobody else notices.

Beside every one of them a healthy job is answered, and must be answered as it always is.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks
from service import live_service

from fleet.web.settings import WebSettings
from fleet.workshop import RUSSIAN, Workshop, open_shop

SECONDS = 60.0
MAX_BODY = 200_000
JOBS, CHAT, COMPLETIONS = "/v1/jobs", "/v1/chat/completions", "/v1/completions"
HEALTHY = {"text": "Anna met Bo", "task": ["mood", "record", "story"]}


@dataclass(frozen=True)
class Poison:
    """One request, what may come of it, and what must be said."""

    name: str
    content: bytes
    status: tuple[int, ...]
    said: str = ""
    path: str = JOBS
    headers: dict[str, str] = field(default_factory=dict)


def nested(levels: int, inner: str = "1") -> str:
    return "[" * levels + inner + "]" * levels


def case(name: str, body: Any, status: int, said: str = "", path: str = JOBS, **headers: str) -> Poison:
    """``body`` is written as JSON unless it is text already."""
    content = body if isinstance(body, str) else json.dumps(body)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Poison(name, content.encode("utf-8", "surrogatepass"), (status,), said, path, named)


def chat(name: str, status: int, said: str, **options: Any) -> Poison:
    body = {"model": "story", "messages": [{"role": "user", "content": "Anna"}], **options}
    return case(name, body, status, said, CHAT)


def form(name: str, schema: Any, said: str) -> Poison:
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    return chat(name, 400, said, model="record", response_format=wanted)


NOT_JSON = [
    case("nothing", "", 422, "body: Field required"),
    case("blank", "  \n", 422, "not JSON"),
    case("a brace", "{", 422, "not JSON at character 1"),
    case("cut short", '{"text": "Anna', 422, "not JSON"),
    case("single quotes", "{'text': 'x'}", 422, "not JSON"),
    case("a trailing comma", '{"text": "x",}', 422, "not JSON"),
    case("two values", '{"text": "x"} {"text": "y"}', 422, "not JSON"),
    case("a comment", '{"text": "x"} // y', 422, "not JSON"),
    case("a control character", '{"text": "a\x01b"}', 422, "not JSON"),
    case("XML", "<job>x</job>", 422, "not JSON"),
    case("pickle", "\x80\x04\x95", 422, "not JSON"),
    case("deep lists", nested(100_000 // 2), 400, "parsing the body"),
    case("deep lists without an end", "[" * 100_000, 400, "parsing the body"),
    case("deep objects", '{"a":' * 30_000 + "1" + "}" * 30_000, 400, "parsing the body"),
    case("a number too long to read", '{"top": ' + "9" * 10_000 + "}", 400, "parsing the body"),
    Poison("no UTF-8", b'{"text": "\xff\xfe"}', (400, 422), "body"),
    Poison("UTF-16", '{"text": 3}'.encode("utf-16"), (400, 422), "body"),
    Poison("zeros", b"\x00" * 1000, (400, 422), "body"),
    Poison("a picture", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8, (400, 422), "body"),
]
WRONG_SHAPE = [
    case("null", "null", 422, "body"),
    case("a text", '"x"', 422, "body"),
    case("a number", "3", 422, "body"),
    case("a list", '[{"text": "x"}]', 422, "body"),
    case("no text", {}, 422, "a job has either text or fields"),
    case("text and fields", {"text": "x", "fields": {"a": "b"}}, 422, "a job has either text or fields"),
    case("a number as text", {"text": 3}, 422, "text: Input should be a valid string (got '3')"),
    case("a list as text", {"text": ["x"]}, 422, "text"),
    case("an object as text", {"text": {"a": "b"}}, 422, "text"),
    case("yes as text", {"text": True}, 422, "text"),
    case("fields as a list", {"fields": ["x"]}, 422, "fields"),
    case("a number as field", {"fields": {"subject": 1}}, 422, "fields.subject"),
    case("no fields", {"fields": {}}, 422, "fields"),
    case("65 fields", {"fields": {f"f{n}": "x" for n in range(65)}}, 422, "fields"),
    case("an unknown field", {"text": "x", "txet": "y"}, 422, "txet: Extra inputs are not permitted"),
    case("a field of the machine's", {"text": "x", "__class__": "y"}, 422, "__class__"),
    case("a gigantic key", {"text": "x", "k" * 100_000: 1}, 422, "k" * 80 + ": Extra"),
    case("half a surrogate pair as key", '{"text": "x", "\\ud800": 1}', 422, "\\ud800: Extra"),
    case("half a surrogate pair", '{"text": "a\\ud800b"}', 422, "text"),
    case("half a surrogate pair in a field", '{"fields": {"text": "\\udfff"}}', 422, "fields.text"),
    case("half a surrogate pair as id", '{"text": "x", "id": "\\udc00"}', 422, "id"),
    case("deep fields", '{"fields": {"a": ' + nested(500) + "}}", 422, "fields.a"),
    case("top 0", {"text": "x", "top": 0}, 422, "top"),
    case("top -1", {"text": "x", "top": -1}, 422, "top"),
    case("top 1.5", {"text": "x", "top": 1.5}, 422, "top"),
    case("top as text", {"text": "x", "top": "1"}, 422, "top"),
    case("top yes", {"text": "x", "top": True}, 422, "top"),
    case("top of 4,000 digits", '{"text": "x", "top": ' + "9" * 4000 + "}", 422, "top"),
    case("top NaN", '{"text": "x", "top": NaN}', 422, "top"),
    case("seconds NaN", '{"text": "x", "seconds": NaN}', 422, "seconds"),
    case("seconds Infinity", '{"text": "x", "seconds": Infinity}', 422, "seconds"),
    case("seconds -Infinity", '{"text": "x", "seconds": -Infinity}', 422, "seconds"),
    case("seconds 1e999", '{"text": "x", "seconds": 1e999}', 422, "seconds"),
    case("seconds 0", {"text": "x", "seconds": 0}, 422, "seconds"),
    case("stream maybe", {"text": "x", "stream": "maybe"}, 422, "stream"),
    case("no jobs", {"jobs": []}, 422, "jobs"),
    case("257 jobs", {"jobs": [{"text": "x"}] * 257}, 422, "jobs"),
    case("jobs as an object", {"jobs": {"text": "x"}}, 422, "jobs"),
    case("a job that is none", {"jobs": [{"text": "x"}, None]}, 422, "jobs[1]"),
    case("jobs within jobs", {"jobs": [{"jobs": [{"text": "x"}]}]}, 422, "jobs[0]"),
    case("streaming several", {"jobs": [{"text": "x"}], "stream": True}, 422, "stream"),
    case("33 tasks", {"text": "x", "task": [f"t{n}" for n in range(33)]}, 422, "task"),
    case("a task as an object", {"text": "x", "task": {"a": 1}}, 422, "task"),
    case("a task without a name", {"text": "x", "task": ""}, 422, "task"),
    case("a task with a gigantic name", {"text": "x", "task": "t" * 100_000}, 422, "task"),
    case("a gigantic id", {"text": "x", "id": "i" * 257}, 422, "id"),
]
BAD_JOBS = [
    case("an empty text", {"text": ""}, 422, "is empty"),
    case("blanks of every kind", {"text": " \t\r\n\u00a0\u2003\u3000"}, 422, "is empty"),
    case("10,000 tokens", {"text": "ab " * 10_000}, 422, "tokens"),
    case("10,000 tokens for a task", {"text": "ab " * 10_000, "task": "mood"}, 422, "tokens"),
    case("one long word", {"text": "a" * 100_000, "task": "mood"}, 422, "tokens"),
    case("a task that is a path", {"text": "x", "task": "../../etc/passwd"}, 404, "no champion for a task"),
    case("a task that is a query", {"text": "x", "task": "mood' OR '1'='1"}, 404, "no champion for a task"),
    case("a task with a NUL", {"text": "x", "task": "mood\x00"}, 404, "no champion for a task"),
    case("the router as a task", {"text": "x", "task": "fleet.router"}, 404, "no champion for a task"),
    case("fields of another task", {"fields": {"subject": "x"}, "task": "letter"}, 422, "no field 'body'"),
    case("blank fields", {"fields": {"subject": " ", "body": ""}, "task": "letter"}, 422, "is empty"),
]
ANSWERED = [
    case("a key twice: the last one counts", '{"text": 3, "text": "Anna", "task": "mood"}', 200),
    case("NUL", {"text": "Anna\x00met\x00Bo", "task": "mood"}, 200),
    case("control characters", {"text": "".join(map(chr, range(1, 16))) + "x", "task": "mood"}, 200),
    case("right to left", {"text": "\u202eשלום\u202c مرحبا", "task": "mood"}, 200),
    case("emoji of several", {"text": "👩‍👩‍👧", "task": "mood"}, 200),
    case("stacked accents", {"text": "a" + "\u0301" * 8, "task": "mood"}, 200),
    case("characters beyond all", {"text": "\U0010ffff\ufffe\ufeff", "task": "mood"}, 200),
    case("a control token", {"text": "<eos><bos><pad>", "task": "mood"}, 200),
    case("a pair in two escapes", '{"text": "\\ud83e\\udd8a fox", "task": "mood"}', 200),
    case("a template", {"text": "{{7*7}} ${x} %s %n", "task": "mood"}, 200),
    case("a field too many", {"fields": {"subject": "x", "body": "y", "more": "z"}, "task": "letter"}, 200),
    case("the same task twice", {"text": "x", "task": ["mood", "mood"]}, 200),
    case("a key that is no ASCII", {"text": "x", "task": "mood"}, 200, idempotency_key="schlüssel"),
    case("JSON of its own kind", {"text": "x", "task": "mood"}, 200, content_type="application/x+json"),
    case("a charset that is none", {"text": "x", "task": "mood"}, 200,
         content_type="application/json; charset=klingon"),
]  # fmt: skip
HEADERS = [
    case("plain text", {"text": "x"}, 422, "Content-Type: application/json", content_type="text/plain"),
    case("a form", "text=x", 422, "Content-Type: application/json",
         content_type="application/x-www-form-urlencoded"),
    case("a multipart form without parts", "x", 422, "Content-Type: application/json",
         content_type="multipart/form-data"),
    case("no content type", {"text": "x"}, 422, "Content-Type: application/json", content_type=""),
    case("a key too long", {"text": "x"}, 422, "idempotency-key", idempotency_key="k" * 257),
]  # fmt: skip
OPENAI = [
    case("chat: nothing", "", 400, "body", CHAT),
    case("chat: cut short", '{"model": "mo', 400, "not JSON", CHAT),
    case("chat: deep", "[" * 100_000, 400, "parsing the body", CHAT),
    case("chat: no messages", {"model": "mood"}, 400, "messages: Field required", CHAT),
    case("chat: plain text", {"model": "mood"}, 400, "application/json", CHAT, content_type="text/plain"),
    chat("chat: a message that is none", 400, "messages[0]", messages=["x"]),
    chat("chat: a message of nobody", 400, "messages[0].role", messages=[{"content": "x"}]),
    chat("chat: 65 messages", 400, "messages", messages=[{"role": "user", "content": "x"}] * 65),
    chat("chat: parts that are none", 400, "part 0", messages=[{"role": "user", "content": [3]}]),
    chat("chat: no content", 400, "content", messages=[{"role": "user", "content": None}]),
    chat("chat: a model that is none", 400, "model", model=3),
    chat("chat: a long model", 400, "model", model="m" * 65),
    chat("chat: an unknown model", 404, "did you mean mood?", model="moods"),
    chat("chat: temperature as text", 400, "temperature", temperature="1"),
    chat("chat: temperature NaN", 400, "temperature", temperature=float("nan")),
    chat("chat: temperature below 0", 400, "temperature", temperature=-0.1),
    chat("chat: top_p 0", 400, "top_p", top_p=0),
    chat("chat: top_p Infinity", 400, "top_p", top_p=float("inf")),
    chat("chat: a seed too large", 400, "seed", seed=2**63),
    chat("chat: an empty stop", 400, "stop", stop=[""]),
    chat("chat: 17 stops", 400, "stop", stop=["a"] * 17),
    chat("chat: n 0", 400, "n: a job has one answer", n=0),
    chat("chat: n yes", 400, "n: a job has one answer", n=True),
    chat("chat: max_tokens below 0", 400, "max_tokens", max_tokens=-1),
    chat("chat: hardly any temperature", 200, "", temperature=1e-300, top_p=1e-300),
    chat("chat: no end of tokens", 200, "", max_tokens=10**100),
    chat("chat: deep where nobody reads", 200, "", metadata=json.loads(nested(200))),
    form("chat: a schema that is a list", [], "schema"),
    form("chat: a deep schema", {"anyOf": json.loads(nested(200))}, "64 levels"),
    form("chat: a long schema", {"title": "x" * 100_001}, "longer than 100,000"),
    form("chat: a schema of itself", {"$ref": "#"}, "cannot be followed"),
    form("chat: a schema of a file", {"$ref": "file:///etc/passwd"}, "cannot be followed"),
    form("chat: a schema that takes for ever",
         {"$ref": "#/$defs/n0", "$defs": {f"n{n}": {"anyOf": [{"$ref": f"#/$defs/n{m}"} for m in range(12)]}
                                          for n in range(12)}}, "too large to be compared"),
    form("chat: a pattern that takes for ever", {"properties": {"who": {"pattern": "(a+)+$"}}}, "/who"),
    form("chat: half a surrogate pair in a schema", {"required": ["\ud800"]}, "surrogate"),
    form("chat: a schema of nonsense", {"type": 3, "required": 3, "properties": None}, "not of none"),
    case("prompts that are none", {"model": "mood", "prompt": [None]}, 400, "prompt[0]", COMPLETIONS),
    case("no prompts", {"model": "mood", "prompt": []}, 400, "prompt", COMPLETIONS),
    case("a prompt of tokens", {"model": "mood", "prompt": [[1]]}, 400, "token ids", COMPLETIONS),
    case("257 prompts", {"model": "mood", "prompt": ["x"] * 257}, 400, "prompt", COMPLETIONS),
    case("an empty prompt", {"model": "mood", "prompt": ""}, 422, "is empty", COMPLETIONS),
    case("half a surrogate pair as prompt", '{"model": "mood", "prompt": "\\ud800"}', 400, "prompt", COMPLETIONS),
]  # fmt: skip
CASES = [*NOT_JSON, *WRONG_SHAPE, *BAD_JOBS, *ANSWERED, *HEADERS, *OPENAI]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    made = open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)
    for kind in ("mood", "record", "story", "letter"):
        made.make(kind, kind)
    made.route({"mood": RUSSIAN, "story": ["Anna met Bo", "hello fox"]})
    return made


@pytest.fixture(scope="module")
def client(shop: Workshop) -> Iterator[httpx.Client]:
    with (
        live_service(shop, WebSettings(max_body=MAX_BODY)) as (address, _),
        httpx.Client(base_url=address, timeout=SECONDS) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def healthy(client: httpx.Client) -> list[str]:
    """What the healthy job is answered with when it is alone."""
    return said(client)


@pytest.fixture(scope="module")
def beside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def said(client: httpx.Client) -> list[str]:
    response = client.post(JOBS, json=HEALTHY)
    assert response.status_code == 200
    return [answer["text"] for answer in response.json()["answers"]]


def message(response: httpx.Response) -> str:
    """What a failure says, in the one shape of errors or as a job's result."""
    body = response.json()
    if isinstance(body["error"], str):
        assert body["code"] in ("bad-job", "unknown-task")
        return body["error"]
    assert {"code", "message", "type", "param"} <= body["error"].keys()
    return str(body["error"]["message"])


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 40
    assert len({poison.name for poison in CASES}) == len(CASES)


@pytest.mark.parametrize("poison", CASES, ids=lambda poison: poison.name)
def test_poison_is_refused_clearly_or_answered_and_harms_nobody(
    client: httpx.Client, healthy: list[str], beside: ThreadPoolExecutor, poison: Poison
) -> None:
    company = beside.submit(said, client)
    headers = {"Content-Type": "application/json", **poison.headers}
    raw = [(k.encode(), v.encode()) for k, v in headers.items() if v or k.lower() != "content-type"]
    if poison.headers.get("content-type") == "":
        raw = []
    response = client.post(poison.path, content=poison.content, headers=raw)
    assert response.status_code in poison.status, response.text[:500]
    if response.status_code != 200:
        assert poison.said in message(response)
        assert len(response.content) < 4000
    assert company.result(SECONDS) == healthy


@pytest.mark.parametrize("path", [JOBS, CHAT, COMPLETIONS])
def test_a_body_that_is_too_large_is_refused_declared_or_not(
    client: httpx.Client, healthy: list[str], path: str
) -> None:
    large = b'{"text": "' + b"x" * MAX_BODY + b'"}'
    for content in (large, iter([large])):
        response = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert response.status_code == 413
        assert "200,000 bytes" in message(response)
    assert said(client) == healthy


BODY = b'{"text": "x", "task": "mood"}'
FINE = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        FINE + b"Content-Length: abc\r\n\r\n" + BODY,
        FINE + b"Content-Length: -1\r\n\r\n" + BODY,
        FINE + b"Content-Length: 5\r\nContent-Length: 29\r\n\r\n" + BODY,
        FINE + b"Content-Length: 5\r\n\r\n" + BODY,
        FINE + b"Content-Length: 99999999999999999999999999\r\n\r\n" + BODY,
        FINE + b"Content-Length: 300000\r\n\r\n" + BODY,
        FINE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + BODY,
        FINE + b"Transfer-Encoding: gzip\r\n\r\n" + BODY,
        FINE + b"X\x00Y: 1\r\n\r\n",
        FINE + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        FINE + b"no colon\r\n\r\n",
        b"PO\x00ST /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/jobs HTTP/9.9\r\nHost: x\r\n\r\n",
        b"POST /v1/%ff%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"GET /v1/models/%ed%a0%80 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
    ],
    ids=lambda sent: repr(sent.replace(FINE, b""))[:40],
)
def test_what_is_no_sound_http_is_refused_or_dropped(
    client: httpx.Client, healthy: list[str], sent: bytes
) -> None:
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname or "", address.port or 0), SECONDS) as wire:
        got = b""
        try:
            wire.sendall(sent)
            wire.shutdown(socket.SHUT_WR)
            while chunk := wire.recv(65536):
                got += chunk
        except OSError:  # it was dropped while we were talking
            pass
    if got:
        assert 400 <= int(got.split(b" ", 2)[1]) < 500
    assert said(client) == healthy


@pytest.fixture(scope="module")
def described(client: httpx.Client) -> Any:
    return schemathesis.openapi.from_url(f"{client.base_url}/openapi.json".replace("//o", "/o"))


schema = schemathesis.pytest.from_fixture("described")
CHECKED = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
    openapi_checks.unsupported_method,
]
"""All that a single request can be held against, but one: that whatever fits the schema is answered. Which
tasks there are, and that a job has either a text or fields, no schema says."""


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_requests_made_up_from_the_description_are_answered_as_described(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKED, timeout=SECONDS)


def test_after_all_that_a_healthy_job_is_answered_as_ever(client: httpx.Client, healthy: list[str]) -> None:
    assert said(client) == healthy
    state = client.get("/v1/experts").json()
    assert {expert["state"] for expert in state["experts"]} == {"ready"}
    assert state["waiting"] == 0
