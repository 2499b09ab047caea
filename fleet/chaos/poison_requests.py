"""Requests that are poison by their headers, paths, methods or size, as a client of HTTP can send them."""

from __future__ import annotations

import json

from fleet.chaos.case import CHAT, COMPLETIONS, JOBS, JSON, Poison, case

_AS_JSON = "Content-Type: application/json"
_TEXT = (b"Content-Type", JSON.encode())
_JOB = json.dumps({"text": "x", "task": "mood"}).encode()


def at(path: str, status: int, *, method: str = "GET", said: str = "") -> Poison:
    """A request without a body."""
    return Poison(f"{method} {path[:40]}", b"", (status,), said, path, method, headers=())


HEADERS = [
    case("plain text", {"text": "x"}, 422, _AS_JSON, content_type="text/plain"),
    case("a form", "text=x", 422, _AS_JSON, content_type="application/x-www-form-urlencoded"),
    case("a multipart form without parts", "x", 422, _AS_JSON, content_type="multipart/form-data"),
    case("no content type", {"text": "x"}, 422, _AS_JSON, content_type=""),
    case("a content type of nonsense", {"text": "x"}, 422, _AS_JSON, content_type=";;;/=,"),
    case("packed", "\x1f\x08\x00", 422, "not JSON", content_encoding="gzip"),
    case("a key too long", {"text": "x"}, 422, "idempotency-key", idempotency_key="k" * 257),
    case("a key of a stream", {"text": "x", "stream": True}, 422, "leave out", idempotency_key="k"),
    Poison("headers of bytes", _JOB, (200,),
           headers=(_TEXT, (b"Accept", b"\xff\xfe"), (b"X-Any", bytes(range(128, 256))))),
    Poison("a hundred headers", _JOB, (200,), headers=(_TEXT, *((b"X-Any", b"y" * 100),) * 100)),
    Poison("a name of another place", _JOB, (403,), "fleet keys new",
           headers=(_TEXT, (b"Host", b"fleet.example"))),
    Poison("a name that is none", _JOB, (400, 403), headers=(_TEXT, (b"Host", b"[::1"))),
    Poison("a name of bytes", _JOB, (400, 403), headers=(_TEXT, (b"Host", b"\xff\xfe"))),
]  # fmt: skip
PLACES = [
    at("/v1/jobs/no/such/place", 404, said="Not Found"),
    at("/" + "a" * 30_000, 404),
    at("/v1/%00", 404),
    at("/v1/models/%00", 404, said="no model"),
    at("/v1/models/%ff%fe", 404, said="no model"),
    at("/v1/models/%ed%a0%80", 404, said="no model"),
    at("/v1/models/" + "m" * 30_000, 404, said="no model"),
    at("/v1/models/..%2f..%2fetc%2fpasswd", 404),
    at("/page/..%2fsettings.py", 404),
    at("/page/%00", 404),
    at("/page/" + "p" * 5000, 404),
    at("/v1/experts?%ff=%00&a=a&a=" + "b" * 10_000, 200),
    at(JOBS, 405, said="Method Not Allowed"),
    *(at(JOBS, 405, method=method) for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")),
    at(CHAT, 405, said="Method Not Allowed"),
    at(COMPLETIONS, 405, method="DELETE"),
    at("/healthz", 405, method="POST"),
    at("/metrics", 405, method="POST"),
]


def large(max_body: int) -> list[Poison]:
    """More than may be sent, declared or not."""
    content = b'{"text": "' + b"x" * max_body + b'"}'
    return [
        Poison(f"too large: {path}{'' if declared else ', undeclared'}", content, (413,),
               f"{max_body:,} bytes", path, declared=declared)
        for path in (JOBS, CHAT, COMPLETIONS)
        for declared in (True, False)
    ]  # fmt: skip
