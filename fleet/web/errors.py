"""How what goes wrong is said over HTTP: one shape, one status for each kind. Knows no routes.

``{"error": {"code", "message", "type", "param"}}``: OpenAI's clients read it too, whatever they ask.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from fleet.job import FaultCode, Result

STATUS: Mapping[FaultCode, int] = {
    "bad-job": 422,
    "other-form": 400,
    "unknown-task": 404,
    "forbidden": 403,
    "no-router": 503,
    "quarantined": 503,
    "overloaded": 429,
    "deadline": 504,
    "failed": 503,
}
"""What a job's failure is over HTTP."""
RETRY_AFTER: Mapping[FaultCode, int] = {"no-router": 5, "quarantined": 5, "overloaded": 1, "failed": 1}
"""Seconds after which it may have passed, if nothing better is known."""
_CODES = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
MAX_FAULTS = 5
"""Of one request that are told."""
SHOWN = 80
"""Characters of a wrong value, or of its name, that are repeated to who sent it."""


class ErrorAbout(BaseModel):
    """What went wrong."""

    code: str
    """Stable; what a program should look at."""
    message: str
    """For people: which field, which rule, what was sent, what to do."""
    type: str
    """invalid_request_error, authentication_error, permission_error, rate_limit_error or server_error."""
    param: str | None
    """The field at fault, where it is one."""


class ErrorBody(BaseModel):
    """Every error has this shape."""

    error: ErrorAbout


class Refusal(Exception):
    """A request that is not answered."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        *,
        param: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """``more`` are further members of the error."""
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})
        self.param, self.more = param, dict(more or {})


def body(
    code: str, message: str, *, status: int = 400, param: str | None = None, **more: Any
) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"code": code, "message": message, "type": kind, "param": param, **more}}


def answers(*statuses: int, also: Any = None) -> dict[int | str, dict[str, Any]]:
    """These failures, for the description of a route; they may have the shape ``also`` as well."""
    shape = ErrorBody if also is None else ErrorBody | also
    return {status: {"model": shape, "description": _SAID[status]} for status in statuses}


_SAID = {
    400: "The request is not JSON, or asks for what cannot be had",
    404: "There is no such thing",
    413: "The request is too large",
    422: "The request has the wrong shape, or nobody can do the job as it is",
    429: "More work waits than may: see Retry-After",
    503: "Nobody can answer at present: see Retry-After",
    504: "The job's time is over",
}


def retry_after(result: Result) -> dict[str, str]:
    """The header that says when a failure may have passed; none for what does not pass."""
    seconds = result.retry_after
    if seconds is None and result.code is not None:
        seconds = RETRY_AFTER.get(result.code)
    return {} if seconds is None else {"Retry-After": str(seconds)}


def faults(error: RequestValidationError) -> list[str]:
    """What is wrong with a request, each with its place."""
    return [_fault(each) for each in error.errors()]


def install(app: FastAPI) -> None:
    """Have everything that is raised leave in our shape."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        content = body(error.code, error.message, status=error.status, param=error.param, **error.more)
        return JSONResponse(content, error.status, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = faults(error)
        content = body("bad-request", "; ".join(found[:MAX_FAULTS]), status=422, param=place(error))
        content["error"]["faults"] = found[:MAX_FAULTS]
        return JSONResponse(content, 422)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        status = error.status_code
        # Not request.url: what came as Host may make no URL.
        message = f"{request.method} {request.scope['path'][:SHOWN]}: {error.detail}"
        content = body(_CODES.get(status, "bad-request"), message, status=status)
        return JSONResponse(content, status, headers=error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        # Whoever serves logs it: it is raised again once this is sent.
        said = "the service broke on this request, and its log says how: send it again, or tell who runs it"
        return JSONResponse(body("failed", said, status=500), 500)


def place(error: RequestValidationError) -> str | None:
    """The field that the first fault is about; None if it is about the request as a whole."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return None
    return _place(first["loc"]) or None


_PARTS = ("body", "header", "path", "query", "one", "many")
"""Of a request, and kinds of it: no fields."""


def _fault(error: Mapping[str, Any]) -> str:
    got = error.get("input")
    if error["type"] == "json_invalid":
        return f"body: not JSON at character {error['loc'][-1]}: {error['ctx']['error']}"
    if isinstance(got, bytes):
        return "body: is not read as JSON: send it with Content-Type: application/json"
    shown = "" if isinstance(got, Mapping | list) or got is None else f" (got {_shown(got)!r})"
    return f"{_place(error['loc']) or 'body'}: {error['msg'].removeprefix('Value error, ')}{shown}"


def _shown(value: Any) -> str:
    return str(value)[:SHOWN]


def _place(location: Sequence[Any]) -> str:
    """The field; nothing if it is the request as a whole."""
    place = ""
    # In front only: a field of a job may be called so.
    for step in itertools.dropwhile(_PARTS.__contains__, location):
        if isinstance(step, int):
            place += f"[{step}]"
            continue
        # A name from outside may be of any length, and hold what cannot be written.
        name = step[:SHOWN].encode("utf-8", "backslashreplace").decode()
        place += f"{'.' if place else ''}{name}"
    return place
