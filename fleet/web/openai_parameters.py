"""What both kinds of OpenAI's requests may hold, checked. Knows nothing of what a job's text is.

Three kinds of parameters: those that are kept; those that change no answer, which are read over and named
in the response; and those that would change it and cannot be kept, which are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from fleet.demand import Demand
from fleet.plain import plain

ROUTED = "fleet"
"""The model that is no expert: the router chooses one."""


@dataclass(frozen=True, slots=True)
class Only:
    """Nothing but these values: the parameter would change the answer and cannot be kept."""

    why: str
    values: tuple[Any, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._checked)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> JsonSchemaValue:
        return {"enum": list(self.values), "description": f"Nothing else can be had: {self.why}."}

    def _checked(self, value: Any) -> Any:
        if not any(
            isinstance(value, bool) == isinstance(each, bool) and value == each for each in self.values
        ):
            raise ValueError(f"{self.why}: leave it out")
        return value


NoTools = Annotated[Any, Only("experts call no tools", (None, []))]
NoPenalty = Annotated[Any, Only("experts know no penalties", (None, 0))]
NoBias = Annotated[Any, Only("the probabilities are the expert's own", (None, {}))]
NoProbabilities = Annotated[Any, Only("no probabilities of tokens are told", (None, False))]
OneAnswer = Annotated[Any, Only("a job has one answer", (None, 1))]
_UNREAD = "Read over: it changes no answer."
Unread = Annotated[Any, Field(description=_UNREAD)]


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Stops = Annotated[
    Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=16)] | None,
    BeforeValidator(_stops),
    Field(description="A text ends before the first of these; labels and records do not."),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": 256},
                {
                    "type": "array",
                    "maxItems": 16,
                    "items": {"type": "string", "minLength": 1, "maxLength": 256},
                },
                {"type": "null"},
            ]
        }
    ),
]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = Field(default=None, description="One chunk more, with the tokens counted.")
    include_obfuscation: Unread = None


class Shared(BaseModel):
    """What both kinds of requests may hold."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(
        min_length=1,
        max_length=64,
        description="A task's name; or `fleet`, and the router chooses the expert.",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Of the answer, if the expert's own limit is not lower; cut short, its `finish_reason` "
        "is `length`. A record is valid then too; a label is always whole.",
    )
    temperature: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="Of a text, if the expert's own is not to hold; labels and records are never drawn.",
    )
    top_p: float | None = Field(default=None, gt=0, le=1, description="Of a text, like the temperature.")
    seed: int | None = Field(
        default=None,
        ge=-(2**63),
        lt=2**63,
        description="Of a text that is drawn; the same one draws the same text.",
    )
    stop: Stops = None
    stream: bool | None = Field(default=None, description="Answer with server-sent events.")
    stream_options: StreamOptions | None = None
    n: OneAnswer = None
    logit_bias: NoBias = None
    presence_penalty: NoPenalty = None
    frequency_penalty: NoPenalty = None
    user: Unread = None
    metadata: Unread = None
    store: Unread = None
    service_tier: Unread = None
    safety_identifier: Unread = None
    parallel_tool_calls: Unread = None
    prompt_cache_key: Unread = None
    prompt_cache_retention: Unread = None
    prompt_cache_options: Unread = None
    reasoning_effort: Unread = None

    @property
    def task(self) -> str | None:
        """The task that is named; None for the router."""
        return None if self.model == ROUTED else self.model

    @property
    def counted(self) -> bool:
        """Whether a stream ends with the tokens counted."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def texts(self) -> list[str]:
        """A job's text each."""
        raise NotImplementedError

    @property
    def ignored(self) -> list[str]:
        """What was sent and is not read."""
        fields = type(self).model_fields.items()
        return [name for name, f in fields if f.description == _UNREAD and getattr(self, name) is not None]

    @property
    def demand(self) -> Demand | None:
        """What is asked of the answer; None if nothing is."""
        demand = self._demand(self.max_tokens)
        return None if demand == Demand() else demand

    def _demand(self, tokens: int | None, **form: Any) -> Demand:
        return Demand(
            max_output_tokens=tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=tuple(self.stop or ()),
            **form,
        )

    def content(self) -> str:
        """Equal for two requests exactly when they ask the same."""
        asked = [type(self).__name__, self.model, self.texts, plain(self.demand), bool(self.stream)]
        return json.dumps(asked, sort_keys=True)
