"""Answers as OpenAI's clients read them piece by piece. Knows nothing of HTTP or of who answers.

Chunks with pieces of the text, one with the reason for the end and what ``taskfleet`` says, perhaps one with
the tokens counted, and the mark of the end.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fleet.job import Result
from fleet.plain import plain
from fleet.web import errors
from fleet.web.openai_answers import Answered, created, finish

DONE = "data: [DONE]\n\n"


class Chunks:
    """Writes the chunks of one response."""

    def __init__(self, id: str, model: str, *, chat: bool, counted: bool, ignored: list[str]) -> None:
        """``model`` is the name that was asked for: who answers need not be known before the end."""
        self._chat = chat
        self._counted = counted
        self._ignored = ignored
        self._head: dict[str, Any] = {
            "id": id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": created(id),
            "model": model,
        }

    async def of_pieces(self, items: AsyncIterator[str | Result]) -> AsyncIterator[str]:
        """One job's text as it is written, then the end; clients raise what fails on the way."""
        if self._chat:
            yield self._event([self._choice(0, "", role="assistant")])
        async for item in items:
            if isinstance(item, str):
                yield self._event([self._choice(0, item)])
                continue
            refusal = failure(item)
            if refusal is not None:
                content = errors.body(refusal.code, refusal.message, status=refusal.status, **refusal.more)
                yield f"event: error\ndata: {json.dumps(content, ensure_ascii=False)}\n\n"
                return
            for line in self._end([item]):
                yield line

    async def of_results(self, results: Sequence[Result]) -> AsyncIterator[str]:
        """Answers that are all there."""
        for index, result in enumerate(results):
            role = {"role": "assistant"} if self._chat else {}
            yield self._event([self._choice(index, result.answers[0].text, **role)])
        for line in self._end(results):
            yield line

    def _end(self, results: Sequence[Result]) -> list[str]:
        answered = Answered(results, self._ignored)
        self._head["system_fingerprint"] = answered.head["system_fingerprint"]
        endings = [
            {**self._choice(index, None), "finish_reason": finish(answer)}
            for index, answer in enumerate(answered.answers)
        ]
        extra = answered.extra.model_dump(mode="json")
        lines = [self._event([ending]) for ending in endings[:-1]]
        lines.append(self._event(endings[-1:], taskfleet=plain(extra)))
        if self._counted:
            lines.append(self._event([], usage=answered.usage.model_dump()))
        return [*lines, DONE]

    def _choice(self, index: int, text: str | None, **more: str) -> dict[str, Any]:
        if self._chat:
            delta = more if text is None else {**more, "content": text}
            return {"index": index, "delta": delta, "finish_reason": None, "logprobs": None}
        return {"index": index, "text": text or "", "finish_reason": None, "logprobs": None}

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        usage = {"usage": None} if self._counted else {}
        content = {**self._head, "choices": choices, **usage, **more}
        return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def failure(result: Result, place: str | None = None) -> errors.Refusal | None:
    """Why a result is no answer, as OpenAI's clients are to raise it; None if it is one.

    ``place`` is the parameter that held the job, where there were several.
    """
    where = "" if place is None else f"{place}: "
    if result.code is not None:
        return errors.Refusal(
            errors.STATUS[result.code],
            "model_not_found" if result.code == "unknown-task" else result.code,
            f"{where}{result.error}",
            errors.retry_after(result),
            param=_AT_FAULT.get(result.code, place),
            more=_decided(result),
        )
    if result.answers:
        return None
    decision = result.decision
    kind = "abstain" if decision is None else decision.kind
    return errors.Refusal(
        422,
        kind if kind in {"clarify", "compound"} else "no-expert",
        f"{where}{'no expert fits' if decision is None else decision.reason}: {_ADVICE.get(kind, NAME)}",
        param=place or "model",
        more=_decided(result),
    )


NAME = "name the task as the model"
_ADVICE = {"compound": "ask for one of them as the model, or send the job to /v1/jobs with all: true"}
_AT_FAULT = {"unknown-task": "model", "other-form": "response_format", "no-router": "model"}


def _decided(result: Result) -> dict[str, Any]:
    return {"taskfleet": {"decision": plain(result.decision)}}
