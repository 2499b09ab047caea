"""OpenAI's own client against a tiny fleet behind a real port."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from service import live_service

from fleet.engine.decode import Completion, Scheduler
from fleet.workshop import RECORD, RUSSIAN, Workshop, open_shop

SECONDS = 60.0
SHORT_RECORD = "21 147 441 24"
"""Its record ends by itself, where others run into their limit."""
REVERSED = {**RECORD, "properties": dict(reversed(RECORD["properties"].items()))}
MOODS = ("good", "goodish", "🎉 שלום", "bad")


class Person(BaseModel):
    """The record's own fields, in another order."""

    code: str | None
    who: str


class Order(BaseModel):
    who: str
    amount: int


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    made = open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)
    for kind in ("mood", "record", "story", "letter"):
        made.make(kind, kind)
    made.make("broken", "mood", spoil=lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"))
    made.route({"mood": RUSSIAN, "story": ["Anna met Bo", "hello fox"]})
    return made


@pytest.fixture(scope="module")
def address(shop: Workshop) -> Iterator[str]:
    with live_service(shop) as (address, _):
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{address}/v1", api_key="none", timeout=SECONDS, max_retries=0) as client:
        yield client


def chat(client: OpenAI, model: str, text: str = "Anna met Bo", **options: Any) -> Any:
    messages = options.pop("messages", [{"role": "user", "content": text}])
    return client.chat.completions.create(model=model, messages=messages, **options)


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}


def test_the_models_are_the_experts_and_the_one_that_routes(client: OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert models.keys() == {"fleet", "mood", "record", "story", "letter", "broken"}
    assert {model.owned_by for model in models.values()} == {"taskfleet"}
    found = client.models.retrieve("letter").model_dump()["taskfleet"]
    assert found["profile"]["fields"] == ["subject", "body"]
    assert found["profile"]["labels"] == ["a", "b"]
    assert found["expert"]["wanted"] == found["profile"]["version"] == 1
    assert client.models.retrieve("record").model_dump()["taskfleet"]["profile"]["schema"] == RECORD
    assert client.models.retrieve("fleet").id == "fleet"
    with pytest.raises(openai.NotFoundError, match="did you mean mood") as told:
        client.models.retrieve("moods")
    assert (told.value.code, told.value.param) == ("model_not_found", "model")


def test_a_chat_is_answered_with_its_receipt(client: OpenAI, address: str) -> None:
    reply = chat(client, "mood")
    assert (reply.object, reply.model) == ("chat.completion", "mood")
    (choice,) = reply.choices
    assert choice.message.role == "assistant"
    assert choice.message.content in MOODS
    assert choice.finish_reason == "stop"
    (origin,) = reply.taskfleet["answers"]
    receipt = origin["receipt"]
    assert (receipt["task"], receipt["version"]) == ("mood", 1)
    assert reply.system_fingerprint == f"mood-1-{receipt['digest'][:12]}"
    assert reply.usage.prompt_tokens == receipt["input_tokens"]
    assert reply.usage.completion_tokens == receipt["output_tokens"]
    assert reply.usage.total_tokens == receipt["input_tokens"] + receipt["output_tokens"]
    job = {"text": "Anna met Bo", "task": "mood"}
    (answer,) = httpx.post(f"{address}/v1/jobs", json=job, timeout=SECONDS).json()["answers"]
    assert choice.message.content == answer["text"]


def test_the_model_fleet_routes_and_says_to_whom(client: OpenAI) -> None:
    reply = chat(client, "fleet", RUSSIAN[3])
    assert reply.model == "mood"
    assert reply.taskfleet["answers"][0]["decision"]["kind"] == "route"


def test_a_job_that_nobody_fits_has_no_answer_but_the_decision(client: OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.UnprocessableEntityError) as told:
            chat(client, "fleet", "14 98 196 17", stream=stream)
        assert told.value.code in ("no-expert", "clarify")
        assert told.value.param == "model"
        decision: Any = told.value.body
        assert decision["taskfleet"]["decision"]["kind"] in ("abstain", "clarify")


def test_system_messages_and_harmless_parameters_are_read_over_and_named(client: OpenAI) -> None:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": [{"type": "text", "text": "Anna"}, {"type": "text", "text": "met Bo"}]},
    ]
    reply = chat(client, "mood", messages=messages, user="me", temperature=0.7, n=1, max_tokens=1)
    assert reply.taskfleet["ignored"] == ["messages[0]", "user"]
    assert reply.choices[0].message.content in MOODS
    assert reply.choices[0].message.content == chat(client, "mood", "Anna\nmet Bo").choices[0].message.content


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
         "messages[1].role", "earlier turns"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
         None, "2 of them are the user's"),
        ({"messages": [{"role": "system", "content": "a"}]}, None, "0 of them are the user's"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages[0].content", "part 0 is no text"),
        ({"n": 2}, "n", "a job has one answer"),
        ({"logprobs": True}, "logprobs", "no probabilities"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "call no tools"),
        ({"presence_penalty": 0.5}, "presence_penalty", "no penalties"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"extra_body": {"guided_choice": ["a"]}}, "guided_choice", "not permitted"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "belongs to"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_and_named(
    client: OpenAI, options: dict[str, Any], param: str | None, said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as told:
        chat(client, "mood", **options)
    assert (told.value.code, told.value.type) == ("bad-request", "invalid_request_error")
    assert told.value.param == param


@pytest.mark.parametrize(
    ("model", "text", "status", "code", "said"),
    [
        ("moods", "x", 404, "model_not_found", "did you mean mood"),
        ("mood", "", 422, "bad-job", "is empty"),
        ("mood", "a " * 300, 422, "bad-job", "mood takes 24"),
        ("letter", "hello", 422, "bad-job", "no field 'subject'"),
        ("broken", "x", 503, "quarantined", "broken is quarantined"),
    ],
)
def test_a_job_s_failure_is_the_exception_that_the_client_has_for_it(
    client: OpenAI, model: str, text: str, status: int, code: str, said: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError, match=said) as told:
            chat(client, model, text, stream=stream)
        assert (told.value.status_code, told.value.code) == (status, code)
        assert (told.value.response.headers.get("Retry-After") is not None) == (status == 503)


def test_a_record_is_parsed_into_the_model_that_agrees_with_its_schema(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": SHORT_RECORD}]
    reply = client.chat.completions.parse(model="record", messages=messages, response_format=Person)
    parsed = reply.choices[0].message.parsed
    assert isinstance(parsed, Person)
    assert parsed.who in SHORT_RECORD
    with client.chat.completions.stream(model="record", messages=messages, response_format=Person) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model="record", messages=messages, response_format=Person, max_completion_tokens=1
        )


def test_a_form_that_the_expert_does_not_have_is_refused_with_the_one_it_has(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Anna met Bo"}]
    with pytest.raises(openai.BadRequestError, match="/code: it is answered, and no other") as told:
        client.chat.completions.parse(model="record", messages=messages, response_format=Order)
    assert (told.value.code, told.value.param) == ("other-form", "response_format")
    assert "x-verbatim" in told.value.message  # the task's schema


@pytest.mark.parametrize(
    ("model", "form", "said"),
    [
        ("record", {"type": "json_object"}, None),
        ("record", {"type": "text"}, None),
        ("record", schema_format(REVERSED), None),
        ("record", schema_format({"type": "object"}), None),
        ("record", schema_format({"type": "array"}), "it is of type object, not array"),
        ("record", schema_format({"type": "object", "required": ["amount"]}), "never answered"),
        ("mood", {"type": "text"}, None),
        ("mood", {"type": "json_object"}, "mood answers with one of its labels"),
        ("mood", schema_format({"type": "string"}), "good, goodish"),
        ("story", {"type": "json_object"}, "story answers with free text"),
        ("fleet", {"type": "json_object"}, "story answers with free text"),
    ],
)  # fmt: skip
def test_a_response_format_is_kept_or_refused(
    client: OpenAI, model: str, form: dict[str, Any], said: str | None
) -> None:
    if said is None:
        content = chat(client, model, response_format=form).choices[0].message.content
        assert model != "record" or json.loads(content).keys() == {"who", "code"}
        return
    with pytest.raises(openai.BadRequestError, match=said) as told:
        chat(client, model, response_format=form)
    assert told.value.param == "response_format"


def test_the_length_of_a_text_is_bounded_and_its_end_has_a_reason(client: OpenAI) -> None:
    whole = chat(client, "story")
    cut = chat(client, "story", max_completion_tokens=2)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage.completion_tokens == 2 < whole.usage.completion_tokens
    assert whole.choices[0].message.content.startswith(cut.choices[0].message.content)
    stop = whole.choices[0].message.content[3:6]
    stopped = chat(client, "story", stop=stop).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == whole.choices[0].message.content.partition(stop)[0]


def test_a_text_is_drawn_when_asked_and_the_same_seed_draws_the_same(client: OpenAI) -> None:
    drawn = [
        chat(client, "story", temperature=2, top_p=1, seed=seed).choices[0].message.content
        for seed in (1, 1, 2, 3)
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    least = chat(client, "story", temperature=1e-300, top_p=1e-300).choices[0].message.content
    assert least == chat(client, "story").choices[0].message.content


def test_a_chat_is_streamed(client: OpenAI) -> None:
    whole = chat(client, "story")
    chunks = list(chat(client, "story", stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(texts) == whole.choices[0].message.content
    assert sum(map(bool, texts)) > 2
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + [
        "length"
    ]
    assert chunks[-2].taskfleet["answers"][0]["receipt"]["task"] == "story"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert {chunk.usage for chunk in chunks[:-1]} == {None}
    assert len({(chunk.id, chunk.model, chunk.object) for chunk in chunks}) == 1


def test_a_stream_ends_with_the_mark_that_clients_wait_for(address: str) -> None:
    body = {"model": "mood", "messages": [{"role": "user", "content": "Anna"}], "stream": True}
    response = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=SECONDS)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")


def test_prompts_are_answered_side_by_side(client: OpenAI) -> None:
    texts = ["Anna met Bo", "hello fox", "Oslo"]
    reply = client.completions.create(model="story", prompt=texts)
    alone = [client.completions.create(model="story", prompt=text).choices[0].text for text in texts]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert [choice.text for choice in reply.choices] == alone
    assert len(reply.model_dump()["taskfleet"]["answers"]) == 3
    pieces = dict.fromkeys(range(3), "")
    for chunk in client.completions.create(model="story", prompt=texts, stream=True):
        for choice in chunk.choices:
            pieces[choice.index] += choice.text
    assert list(pieces.values()) == alone
    with pytest.raises(openai.UnprocessableEntityError, match=r"prompt\[1\]: .* is empty") as told:
        client.completions.create(model="story", prompt=["a", " "])
    assert told.value.param == "prompt[1]"
    with pytest.raises(openai.BadRequestError, match="token ids are not taken"):
        client.completions.create(model="story", prompt=[1, 2])


def test_a_prompt_is_streamed(client: OpenAI) -> None:
    whole = client.completions.create(model="story", prompt="hello fox")
    chunks = list(client.completions.create(model="story", prompt="hello fox", stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_the_asynchronous_client_has_its_answers_too(address: str) -> None:
    async def ask() -> list[str]:
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", timeout=SECONDS) as client:
            messages: Any = [{"role": "user", "content": "Anna met Bo"}]
            replies = await asyncio.gather(
                *(client.chat.completions.create(model="story", messages=messages) for _ in range(8))
            )
            text = ""
            stream = await client.chat.completions.create(model="story", messages=messages, stream=True)
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
            return [text, *(reply.choices[0].message.content or "" for reply in replies)]

    assert len(set(asyncio.run(ask()))) == 1


def test_the_same_key_gives_the_same_answer_whole_or_streamed(client: OpenAI) -> None:
    options: dict[str, Any] = {"extra_headers": {"Idempotency-Key": "k"}, "temperature": 2}
    first, second = (chat(client, "story", **options) for _ in range(2))
    assert first == second
    with pytest.raises(openai.UnprocessableEntityError, match="belongs to another request") as told:
        chat(client, "story", "another", **options)
    assert told.value.code == "key-reused"
    options["extra_headers"] = {"Idempotency-Key": "s"}
    streams = [list(chat(client, "story", stream=True, **options)) for _ in range(2)]
    assert streams[0] == streams[1]


def test_a_failure_in_the_middle_of_a_stream_is_raised(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail = threading.Event()
    step = Scheduler.step

    def spoiled(self: Scheduler) -> list[Completion]:
        if fail.is_set():
            raise RuntimeError("a step that fails")
        ended = step(self)
        for running in self._running:
            if len(running.output) >= 3:
                fail.wait(SECONDS)
        return ended

    monkeypatch.setattr(Scheduler, "step", spoiled)
    with (
        live_service(shop) as (address, _),
        OpenAI(base_url=f"{address}/v1", api_key="none", timeout=SECONDS, max_retries=0) as client,
    ):
        stream = chat(client, "story", stream=True)
        assert next(stream).choices[0].delta.role == "assistant"
        fail.set()
        with pytest.raises(openai.APIError, match="send it again"):
            list(stream)


def test_an_expert_tells_what_it_is_for_before_it_is_in_memory(shop: Workshop) -> None:
    with live_service(shop) as (address, _):
        profiles = {
            name: httpx.get(f"{address}/v1/models/{name}", timeout=SECONDS).json()["taskfleet"]["profile"]
            for name in ("mood", "record", "story", "broken")
        }
    assert [profiles[name] and profiles[name]["kind"] for name in profiles] == [
        "classification", "extraction", "generation", None,
    ]  # fmt: skip
