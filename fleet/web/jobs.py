"""``/v1/jobs``: jobs in, results out. Knows nothing of who answers.

Every job ends in one result whose ``code`` says what kind of failure it is, if it is one; a request for a
single job has the status that goes with it, a request for several has each job's own.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from fleet.job import Result
from fleet.plain import plain
from fleet.web import errors
from fleet.web.backend import Backend
from fleet.web.once import Once
from fleet.web.requests import JobsIn, OneJob


class Results(BaseModel):
    """What several jobs come to, in their order."""

    results: list[Result]


def job_routes(backend: Backend, once: Once) -> APIRouter:
    """``POST /v1/jobs``; ``once`` remembers answers by idempotency key."""
    routes = APIRouter()

    @routes.post(
        "/v1/jobs",
        tags=["jobs"],
        responses={
            200: {
                "model": Result | Results,
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            **errors.answers(400, 413),
            **errors.answers(404, 422, 429, 503, 504, also=Result),
        },
    )
    async def jobs(
        request: JobsIn,
        idempotency_key: Annotated[str | None, Header(max_length=256)] = None,
    ) -> Response:
        """Route and answer one job or several.

        A single job that fails has the status of its failure, and its result as the body; several have each
        their own `code`.
        """
        if isinstance(request, OneJob) and request.stream:
            if idempotency_key is not None:
                reason = "a stream cannot be given twice: leave out either stream or the Idempotency-Key"
                raise errors.Refusal(422, "key-reused", reason)
            return StreamingResponse(
                _events(backend.stream(request.job("1"), seconds=request.seconds)),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store"},
            )
        wanted = [request] if isinstance(request, OneJob) else request.jobs
        numbered = [each.job(str(number)) for number, each in enumerate(wanted, start=1)]

        async def answer(places: Sequence[int]) -> list[Result]:
            chosen = [numbered[place] for place in places]
            return await backend.answer(chosen, top=request.top, seconds=request.seconds)

        if idempotency_key is None:
            results = await answer(range(len(numbered)))
        else:
            # ASCII: a text may hold half a surrogate pair, and its job is to say so.
            content = json.dumps(request.model_dump(), sort_keys=True)
            results = await once.do(idempotency_key, content, len(numbered), answer)
        if isinstance(request, OneJob):
            return single(results[0])
        waits = [result.retry_after for result in results if result.retry_after is not None]
        return JSONResponse(
            {"results": plain(results)}, headers={"Retry-After": str(max(waits))} if waits else None
        )

    return routes


def single(result: Result) -> Response:
    """One job's result with the status that it deserves."""
    status = 200 if result.code is None else errors.STATUS[result.code]
    return JSONResponse(plain(result), status, headers=errors.retry_after(result))


async def _events(items: AsyncIterator[str | Result]) -> AsyncIterator[str]:
    """Server-sent events: ``text`` with a piece of it, at last ``result`` with all of it."""
    async for item in items:
        if isinstance(item, str):
            yield _event("text", item)
        else:
            yield _event("result", plain(item))


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
