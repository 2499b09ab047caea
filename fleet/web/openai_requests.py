"""What OpenAI's clients send, checked and read as jobs. Knows nothing of who answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from fleet.demand import Demand
from fleet.web.openai_form import ResponseFormat
from fleet.web.openai_parameters import NoProbabilities, NoTools, OneAnswer, Only, Shared, Unread
from fleet.web.requests import MAX_JOBS

MAX_MESSAGES = 64

# ---- /v1/completions


def _prompt(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(part, int | list) for part in value):
        raise ValueError("token ids are not taken, as every base has its own: send the text")
    return [value] if isinstance(value, str) else value


Prompts = Annotated[
    list[str],
    BeforeValidator(_prompt),
    Field(min_length=1, max_length=MAX_JOBS, description="A job's text, or several jobs' texts."),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_JOBS},
            ]
        }
    ),
]


class CompletionsIn(Shared):
    """What ``POST /v1/completions`` takes."""

    prompt: Prompts
    best_of: OneAnswer = None
    echo: Annotated[Any, Only("the job is not repeated", (None, False))] = None
    logprobs: NoProbabilities = None
    suffix: Annotated[Any, Only("experts complete no gaps", (None, ""))] = None

    @property
    def texts(self) -> list[str]:
        return self.prompt


# ---- /v1/chat/completions


def _content(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    texts = []
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if kind == "text" else None
        if not isinstance(text, str):
            raise ValueError(f"part {number} is no text ({str(kind)[:40]!r}): experts read text alone")
        texts.append(text)
    return "\n".join(texts)


Content = Annotated[
    str,
    BeforeValidator(_content),
    Field(description="A text, or parts that are texts, which become lines."),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                        "required": ["type", "text"],
                    },
                },
            ]
        }
    ),
]


def _role(value: str) -> str:
    if value not in ("system", "developer", "user"):
        raise ValueError(
            "an expert reads one text, no conversation: send the user's last message without earlier turns"
        )
    return value


class Message(BaseModel):
    """One message; of all of them, exactly one is the user's."""

    # A turn of an assistant or a tool has members of its own, and its role is what is wrong with it.
    model_config = ConfigDict(extra="ignore", strict=True)

    role: Annotated[str, AfterValidator(_role), WithJsonSchema({"enum": ["system", "developer", "user"]})]
    content: Content
    name: Unread = None


class ChatIn(Shared):
    """What ``POST /v1/chat/completions`` takes."""

    messages: list[Message] = Field(
        min_length=1,
        max_length=MAX_MESSAGES,
        description="One message of the user, which is the job. Messages of the roles `system` and "
        "`developer` are read over: an expert knows its task. Earlier turns are refused.",
    )
    max_completion_tokens: int | None = Field(default=None, ge=1, description="The same as `max_tokens`.")
    response_format: ResponseFormat | None = Field(
        default=None,
        description="`text` of any expert; `json_object` of one that extracts; `json_schema` of one whose "
        "every answer is valid under it, whatever the order of its keys. Anything else is refused with 400, "
        "with the model `fleet` after the router chose.",
    )
    logprobs: NoProbabilities = None
    top_logprobs: Annotated[Any, Only("no probabilities of tokens are told", (None,))] = None
    tools: NoTools = None
    functions: NoTools = None
    tool_choice: Annotated[Any, Only("experts call no tools", (None, "none", "auto"))] = None
    function_call: Annotated[Any, Only("experts call no tools", (None, "none", "auto"))] = None
    modalities: Annotated[Any, Only("experts write text", (None, ["text"]))] = None

    @model_validator(mode="after")
    def _one_job(self) -> Self:
        users = sum(message.role == "user" for message in self.messages)
        if users != 1:
            raise ValueError(
                f"messages: {users} of them are the user's; an expert reads one text, so send exactly one"
            )
        return self

    @property
    def texts(self) -> list[str]:
        return [message.content for message in self.messages if message.role == "user"]

    @property
    def ignored(self) -> list[str]:
        unread = [f"messages[{n}]" for n, message in enumerate(self.messages) if message.role != "user"]
        return unread + super().ignored

    @property
    def demand(self) -> Demand | None:
        limits = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        form = self.response_format
        demand = self._demand(
            min(limits, default=None),
            json=form is not None and form.type == "json_object",
            schema=None if form is None or form.json_schema is None else form.json_schema.schema_,
        )
        return None if demand == Demand() else demand
