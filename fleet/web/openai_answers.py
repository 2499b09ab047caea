"""Results in the shapes that OpenAI's clients read, and models in theirs. Knows nothing of HTTP or of routes.

What those shapes have no place for, the decision and the receipt of every answer, stands under ``taskfleet``.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from fleet.job import Answer, Receipt, Result
from fleet.profile import Profile
from fleet.routing.decision import Decision
from fleet.web.backend import ExpertState, ServiceState
from fleet.web.openai_parameters import ROUTED

FinishReason = Literal["stop", "length"]


class Origin(BaseModel):
    """Where an answer comes from."""

    decision: Decision | None
    receipt: Receipt
    value: Any
    """The answer as a value: a label, a record, a text."""
    confidence: float


class Extra(BaseModel):
    """What OpenAI's shapes have no place for."""

    answers: list[Origin]
    """One for each choice."""
    ignored: list[str]
    """Messages and parameters of the request that nobody read, as they change no answer."""


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    finish_reason: FinishReason
    logprobs: None = None


class TextChoice(BaseModel):
    index: int
    text: str
    finish_reason: FinishReason
    logprobs: None = None


class Reply(BaseModel):
    """What both kinds of responses hold."""

    id: str
    created: int
    model: str
    """The task that answered; ``fleet`` where several did."""
    usage: Usage
    system_fingerprint: str | None
    """The version that answered and the beginning of its digest; null where several did."""
    taskfleet: Extra


class ChatCompletion(Reply):
    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class TextCompletion(Reply):
    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]


class ModelExtra(BaseModel):
    """What there is to say of an expert."""

    expert: ExpertState
    profile: Profile | None = None
    """What it is for; only where one model is asked for, null if nobody can tell."""


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "taskfleet"
    taskfleet: ModelExtra | None = None
    """Null for the one that routes."""


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


def listed(state: ServiceState) -> list[Model]:
    """The one that routes, and one for each expert."""
    router = Model(id=ROUTED, created=int(state.started))
    return [router, *(model_of(expert) for expert in state.experts if expert.task != ROUTED)]


def model_of(expert: ExpertState, profile: Profile | None = None) -> Model:
    extra = ModelExtra(expert=expert, profile=profile)
    return Model(id=expert.task, created=int(expert.created), taskfleet=extra)


def fresh_id() -> str:
    """For the jobs of one request. It holds the second, so that a repeated answer repeats that too."""
    return f"{int(time.time()):x}-{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True)
class Answered:
    """A request whose jobs all have an answer: result by result, in the order of the choices."""

    results: Sequence[Result]
    ignored: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.results[0].id

    @property
    def answers(self) -> list[Answer]:
        return [result.answers[0] for result in self.results]

    @property
    def head(self) -> dict[str, Any]:
        """What stands at the beginning of a response."""
        receipts = {(a.receipt.task, a.receipt.version, a.receipt.digest) for a in self.answers}
        task, version, digest = receipts.pop()
        fingerprint = None if receipts else f"{task}-{version}-{digest[:12]}"
        alone = {task} == {a.receipt.task for a in self.answers}
        return {
            "id": self.id,
            "created": created(self.id),
            "model": task if alone else ROUTED,
            "system_fingerprint": fingerprint,
        }

    @property
    def usage(self) -> Usage:
        read = sum(answer.receipt.input_tokens for answer in self.answers)
        written = sum(answer.receipt.output_tokens for answer in self.answers)
        return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    @property
    def extra(self) -> Extra:
        origins = [
            Origin(decision=r.decision, receipt=a.receipt, value=a.value, confidence=a.confidence)
            for r, a in zip(self.results, self.answers, strict=True)
        ]
        return Extra(answers=origins, ignored=self.ignored)

    def chat(self) -> ChatCompletion:
        choices = [
            ChatChoice(index=n, message=ChatMessage(content=a.text), finish_reason=finish(a))
            for n, a in enumerate(self.answers)
        ]
        return ChatCompletion(**self.head, usage=self.usage, taskfleet=self.extra, choices=choices)

    def completion(self) -> TextCompletion:
        choices = [
            TextChoice(index=n, text=a.text, finish_reason=finish(a)) for n, a in enumerate(self.answers)
        ]
        return TextCompletion(**self.head, usage=self.usage, taskfleet=self.extra, choices=choices)


def created(id: str) -> int:
    """The second in which this was asked first."""
    return int(id.partition("-")[0], 16)


def finish(answer: Answer) -> FinishReason:
    return "length" if answer.truncated else "stop"
