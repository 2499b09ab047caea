"""Poison for the routes of OpenAI's clients. The tasks are those of ``fleet.workshop``."""

from __future__ import annotations

import json
from typing import Any

from fleet.chaos.case import CHAT, COMPLETIONS, Poison, case, nested


def chat(name: str, status: int, said: str, **options: Any) -> Poison:
    """A request that would be sound but for ``options``."""
    body = {"model": "story", "messages": [{"role": "user", "content": "Anna"}], **options}
    return case(f"chat: {name}", body, status, said, CHAT)


def form(name: str, schema: Any, said: str) -> Poison:
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    return chat(name, 400, said, model="record", response_format=wanted)


def prompt(name: str, value: Any, status: int, said: str) -> Poison:
    return case(name, {"model": "mood", "prompt": value}, status, said, COMPLETIONS)


ENDLESS = {
    "$ref": "#/$defs/n0",
    "$defs": {f"n{n}": {"anyOf": [{"$ref": f"#/$defs/n{m}"} for m in range(12)]} for n in range(12)},
}
MAY_BE_NULL = (
    *("max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options", "response_format"),
    *("n", "tools", "tool_choice", "logprobs", "logit_bias", "presence_penalty", "user", "metadata"),
)
OPENAI = [
    case("chat: nothing", "", 400, "body", CHAT),
    case("chat: cut short", '{"model": "mo', 400, "not JSON", CHAT),
    case("chat: deep", "[" * 100_000, 400, "parsing the body", CHAT),
    case("chat: no messages", {"model": "mood"}, 400, "messages: Field required", CHAT),
    case("chat: plain text", {"model": "mood"}, 400, "application/json", CHAT, content_type="text/plain"),
    case("chat: a list", "[]", 400, "body", CHAT),
    chat("a message that is none", 400, "messages[0]", messages=["x"]),
    chat("a message of nobody", 400, "messages[0].role", messages=[{"content": "x"}]),
    chat("65 messages", 400, "messages", messages=[{"role": "user", "content": "x"}] * 65),
    chat("parts that are none", 400, "part 0", messages=[{"role": "user", "content": [3]}]),
    chat("no content", 400, "content", messages=[{"role": "user", "content": None}]),
    chat("a picture", 400, "part 0", messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
    chat("a model that is none", 400, "model", model=3),
    chat("a long model", 400, "model", model="m" * 65),
    chat("an unknown model", 404, "did you mean mood?", model="moods"),
    chat("temperature as text", 400, "temperature", temperature="1"),
    chat("temperature NaN", 400, "temperature", temperature=float("nan")),
    chat("temperature below 0", 400, "temperature", temperature=-0.1),
    chat("top_p 0", 400, "top_p", top_p=0),
    chat("top_p Infinity", 400, "top_p", top_p=float("inf")),
    chat("a seed too large", 400, "seed", seed=2**63),
    chat("an empty stop", 400, "stop", stop=[""]),
    chat("17 stops", 400, "stop", stop=["a"] * 17),
    chat("n 0", 400, "n: a job has one answer", n=0),
    chat("n yes", 400, "n: a job has one answer", n=True),
    chat("n NaN", 400, "n: a job has one answer", n=float("nan")),
    chat("max_tokens below 0", 400, "max_tokens", max_tokens=-1),
    chat("stream as text", 400, "stream", stream="yes"),
    chat("tools that are none", 400, "experts call no tools", tools=3),
    chat("null for all that may be left out", 200, "", **dict.fromkeys(MAY_BE_NULL)),
    chat("hardly any temperature", 200, "", temperature=1e-300, top_p=1e-300),
    chat("no end of tokens", 200, "", max_tokens=10**100),
    chat("deep where nobody reads", 200, "", metadata=json.loads(nested(200))),
    form("a schema that is a list", [], "schema"),
    form("a deep schema", {"anyOf": json.loads(nested(200))}, "64 levels"),
    form("a long schema", {"title": "x" * 100_001}, "longer than 100,000"),
    form("a schema of itself", {"$ref": "#"}, "cannot be followed"),
    form("a schema of a file", {"$ref": "file:///etc/passwd"}, "cannot be followed"),
    form("a schema that takes for ever", ENDLESS, "too large to be compared"),
    form("a pattern that takes for ever", {"properties": {"who": {"pattern": "(a+)+$"}}}, "/who"),
    form("half a surrogate pair in a schema", {"required": ["\ud800"]}, "surrogate"),
    form("a schema of nonsense", {"type": 3, "required": 3, "properties": None}, "not of none"),
    prompt("prompts that are none", [None], 400, "prompt[0]"),
    prompt("no prompts", [], 400, "prompt"),
    prompt("a prompt of tokens", [[1]], 400, "token ids"),
    prompt("257 prompts", ["x"] * 257, 400, "prompt"),
    prompt("an empty prompt", "", 422, "is empty"),
    prompt("half a surrogate pair as prompt", "\ud800", 422, "half of a surrogate pair"),
    prompt("a prompt of 10,000 tokens", "ab " * 10_000, 422, "tokens"),
]  # fmt: skip
