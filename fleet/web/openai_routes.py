"""``/v1/models``, ``/v1/chat/completions``, ``/v1/completions``: for OpenAI's clients.

A model is a task; ``fleet`` is the model that routes. Knows nothing of who answers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from fleet.errors import suggest
from fleet.job import Job, Result
from fleet.web import errors
from fleet.web.backend import Backend
from fleet.web.once import Once
from fleet.web.openai_answers import (
    Answered,
    ChatCompletion,
    Model,
    Models,
    TextCompletion,
    fresh_id,
    listed,
    model_of,
)
from fleet.web.openai_parameters import Shared
from fleet.web.openai_requests import ChatIn, CompletionsIn
from fleet.web.openai_stream import Chunks, failure

Key = Annotated[
    str | None, Header(max_length=256, description="The same key never gives two different answers.")
]
_STREAMED = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
_FAILURES = errors.answers(400, 404, 413, 422, 429, 503, 504)


class _Route(APIRoute):
    """Has requests of the wrong shape refused with the status that OpenAI's clients know for it."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]  # any awaitable does
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                found = errors.faults(error)[: errors.MAX_FAULTS]
                raise errors.Refusal(
                    400, "bad-request", "; ".join(found), param=errors.place(error), more={"faults": found}
                ) from error

        return handled


def openai_routes(backend: Backend, once: Once) -> APIRouter:
    """What OpenAI's clients ask for; ``once`` remembers answers by idempotency key."""
    routes = APIRouter(tags=["openai"], route_class=_Route)

    @routes.get("/v1/models", responses=_FAILURES)
    async def models() -> Models:
        """One model for each expert, and `fleet`, which routes."""
        return Models(data=listed(await backend.state()))

    @routes.get("/v1/models/{model}", responses=_FAILURES)
    async def model(model: str) -> Model:
        """One model, with what the expert is for: kind, fields, labels or schema, limits."""
        state = await backend.state()
        known = {each.id: each for each in listed(state)}
        if model not in known:
            said = f"there is no model called {model[: errors.SHOWN]}; {suggest(model[:64], known)}"
            raise errors.Refusal(404, "model_not_found", said, param="model")
        found = known[model].taskfleet
        return known[model] if found is None else model_of(found.expert, await backend.profile(model))

    @routes.post(
        "/v1/chat/completions", response_model=ChatCompletion, responses={200: _STREAMED, **_FAILURES}
    )
    async def chat(request: ChatIn, idempotency_key: Key = None) -> Response:
        """Have one text answered, as a chat with a single message.

        The job is the text of the user's message. An expert reads one text: messages of the roles `system`
        and `developer` are read over, since it knows its task, and `taskfleet.ignored` in the response says
        so; earlier turns of a conversation are refused. An expert with several fields is asked at `/v1/jobs`.

        The content of the answer is a label, compact JSON, or a text, as the expert's kind is. With the
        model `fleet` the router chooses; if no expert fits, several may, or the job needs several, there is
        no answer but an error 422 with the code `no-expert`, `clarify` or `compound`, which holds the
        decision under `taskfleet`.
        """
        return await _answer(request, idempotency_key)

    @routes.post("/v1/completions", response_model=TextCompletion, responses={200: _STREAMED, **_FAILURES})
    async def completions(request: CompletionsIn, idempotency_key: Key = None) -> Response:
        """Have one text answered, or several side by side, each with a choice of its own.

        The prompt is the job's text; nothing goes on from it. If one of several has no answer, the error is
        that of the first such one. A stream of several gives each answer in one piece.
        """
        return await _answer(request, idempotency_key)

    async def _answer(request: Shared, key: str | None) -> Response:
        id = fresh_id()
        jobs = [Job(id, text, task=request.task, demand=request.demand) for text in request.texts]
        if request.stream and key is None and len(jobs) == 1:
            return await _begin(request, id, backend.stream(jobs[0]))

        async def answer(places: Sequence[int]) -> list[Result]:
            return await backend.answer([jobs[place] for place in places])

        if key is None:
            results = await answer(range(len(jobs)))
        else:
            results = await once.do(key, request.content(), len(jobs), answer)
        for index, result in enumerate(results):
            refusal = failure(result, None if len(jobs) == 1 else f"prompt[{index}]")
            if refusal is not None:
                raise refusal
        if request.stream:
            return _streaming(results[0].id, _chunks(request, results[0].id).of_results(results))
        answered = Answered(results, request.ignored)
        return _whole(answered.chat() if isinstance(request, ChatIn) else answered.completion(), answered.id)

    return routes


async def _begin(request: Shared, id: str, items: AsyncIterator[str | Result]) -> Response:
    """A stream once it is known that there is something to say: what fails before has its own status."""
    first = await anext(items)
    if isinstance(first, Result) and (refusal := failure(first)) is not None:
        raise refusal

    async def all_items() -> AsyncIterator[str | Result]:
        yield first
        async for item in items:
            yield item

    return _streaming(id, _chunks(request, id).of_pieces(all_items()))


def _chunks(request: Shared, id: str) -> Chunks:
    return Chunks(
        id, request.model, chat=isinstance(request, ChatIn), counted=request.counted, ignored=request.ignored
    )


def _streaming(id: str, lines: AsyncIterator[str]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Request-Id": id}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


def _whole(content: BaseModel, id: str) -> Response:
    return Response(content.model_dump_json(), media_type="application/json", headers={"X-Request-Id": id})
