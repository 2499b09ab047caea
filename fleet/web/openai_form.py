"""``response_format`` as it comes, checked for its size. Knows no task, so not whether one agrees with it."""

from __future__ import annotations

import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fleet.web.openai_parameters import Unread

MAX_SCHEMA = 100_000
"""Characters of a JSON Schema."""
MAX_DEPTH = 64
"""Levels of its nesting."""


class SchemaFormat(BaseModel):
    """The ``json_schema`` of a ``response_format``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=256)
    schema_: dict[str, Any] = Field(
        alias="schema",
        description="Every answer of the expert must be valid under it, or it is refused with 400.",
    )
    description: Unread = None
    strict: Unread = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if depth(self.schema_) > MAX_DEPTH:
            raise ValueError(f"the schema is nested more than {MAX_DEPTH} levels deep")
        written = json.dumps(self.schema_, ensure_ascii=False)
        if len(written) > MAX_SCHEMA:
            raise ValueError(f"the schema is longer than {MAX_SCHEMA:,} characters")
        if any("\ud800" <= char <= "\udfff" for char in written):
            raise ValueError("the schema holds half of a surrogate pair, which is no character")
        return self


def depth(value: Any) -> int:
    """Levels of nesting; of values of any depth."""
    levels, level = 0, [value]
    while level:
        levels += 1
        inner = [v for v in level if isinstance(v, dict | list)]
        level = [child for v in inner for child in (v.values() if isinstance(v, dict) else v)]
    return levels


class ResponseFormat(BaseModel):
    """The form of the answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    @model_validator(mode="after")
    def _agreeing(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type json_schema, and to no other")
        return self
