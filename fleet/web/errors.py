"""How what goes wrong is said over HTTP: one shape, one status for each kind. Knows no routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fleet.job import FaultCode

STATUS: Mapping[FaultCode, int] = {
    "bad-job": 422,
    "unknown-task": 404,
    "forbidden": 403,
    "no-router": 503,
    "quarantined": 503,
    "overloaded": 429,
    "deadline": 504,
    "failed": 503,
}
"""What a job's failure is over HTTP."""
_CODES = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}
SHOWN = 80
"""Characters of a wrong value that are repeated to who sent it."""


class Refusal(Exception):
    """A request that is not answered."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


def body(code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **more}}


def install(app: FastAPI) -> None:
    """Have everything that is raised leave in our shape."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return JSONResponse(body(error.code, error.message), error.status, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [_fault(each) for each in error.errors()]
        return JSONResponse(body("bad-request", "; ".join(faults[:5]), faults=faults), 422)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = _CODES.get(error.status_code, "bad-request")
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(body(code, message), error.status_code, headers=error.headers)


def _fault(error: Mapping[str, Any]) -> str:
    where = _place(error["loc"])
    got = error.get("input")
    shown = "" if isinstance(got, Mapping | list) or got is None else f" (got {str(got)[:SHOWN]!r})"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{shown}"


def _place(location: Sequence[Any]) -> str:
    place = ""
    for step in location:
        place += f"[{step}]" if isinstance(step, int) else f"{'.' if place else ''}{step}"
    return place
