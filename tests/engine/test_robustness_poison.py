"""A poisoned adapter fails alone: its batch mates' answers stay what they were, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from shop import Shop

from fleet.engine.adapters import Adapter, AdapterBank, tensor_name
from fleet.engine.body import Body
from fleet.engine.decode import Completion
from fleet.engine.specs import ConstraintSpec, FullSpec, LabelSpec, LoraSpec, SchemaSpec, TextSpec
from fleet.errors import ArtifactError

LABELS = LabelSpec(("good", "goodish", "bad"))
RECORD = SchemaSpec(
    {
        "type": "object",
        "properties": {
            "who": {"type": "array", "items": {"type": "string", "x-verbatim": True}, "maxItems": 3},
            "note": {"type": "string", "maxLength": 9},
        },
        "required": ["who", "note"],
    }
)
POISONED = 1
Job = tuple[ConstraintSpec, str, int]
# Few adapters in a batch are multiplied one by one, many are gathered: poison must not seep through either.
FEW: list[Job] = [(LABELS, "fine weather", 0), (RECORD, "Anna met Bo", 0), (TextSpec(), "tell me", 0)]
MANY: list[Job] = [*FEW, (RECORD, "héllo 🦊", 2), (LABELS, "good bad " * 9, 3), (LABELS, "x", -1)]


@pytest.fixture
def shop(tiny_base_folder: Path) -> Shop:
    return Shop(tiny_base_folder, (2, 2, 2, 3, 0))


def exactly(completions: list[Completion]) -> list[tuple[object, ...]]:
    """All there is of the answers, the logits at their branching points bit for bit."""
    return [
        (c.value, c.text, c.confidence, c.tokens, [(s.numpy().tobytes(), i) for s, i in c.branches])
        for c in completions
    ]


def answer(
    shop: Shop, mates: list[Job], beside: Job, *, cancel_after: int | None = None
) -> tuple[list[Completion], Completion | None]:
    """The mates' completions, and that of the job beside them unless it is cancelled before."""
    scheduler = shop.scheduler(8)
    for i, job in enumerate(mates):
        scheduler.submit(shop.request(str(i), *job))
    scheduler.submit(shop.request("beside", *beside))
    done: dict[str, Completion] = {}
    steps = 0
    while scheduler.busy:
        done.update((completion.job_id, completion) for completion in scheduler.step())
        steps += 1
        if steps == cancel_after:
            assert scheduler.cancel("beside")
    return [done[str(i)] for i in range(len(mates))], done.get("beside")


@pytest.mark.parametrize("mates", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("where", ["everywhere", "one number"])
def test_mates_are_as_beside_a_healthy_job_that_was_cancelled(
    shop: Shop, mates: list[Job], value: float, where: str
) -> None:
    beside: Job = (TextSpec(), "long " * 12, POISONED)
    wanted, _ = answer(shop, mates, beside, cancel_after=1)
    without = [
        completion.value for completion in shop.run([shop.request(str(i), *m) for i, m in enumerate(mates)])
    ]
    for name, tensor in shop.bank.parameters(POISONED).items():
        if where == "everywhere":
            tensor.fill_(value)
        elif name == tensor_name(5, "mlp.up_proj", "B"):
            tensor[0, 0] = value
    got, bad = answer(shop, mates, beside)
    assert exactly(got) == exactly(wanted)
    assert [completion.value for completion in got] == without
    assert bad is not None
    assert bad.value is None
    assert bad.fault is None
    assert "NaN or infinity" in str(bad.error)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_next_job_in_its_place_finds_it_clean(shop: Shop, value: float) -> None:
    """Beside a longer job it is padded with what its predecessor has left there."""
    beside: Job = (TextSpec(), "long " * 40, POISONED)
    jobs: list[Job] = [
        (TextSpec(), "a longer way " * 4, 0),
        beside,
        (RECORD, "Anna met Bo", 0),
        (LABELS, "x", 2),
    ]

    def answer_in_two_places(cancel: bool) -> list[Completion]:
        scheduler = shop.scheduler(2)
        for i, job in enumerate(jobs):
            scheduler.submit(shop.request(str(i), *job, limit=40))
        done = scheduler.step()
        assert [completion.job_id for completion in done] == ([] if cancel else ["1"])
        assert scheduler.cancel("1") == cancel
        while scheduler.busy:
            done += scheduler.step()
        return [completion for completion in done if completion.job_id != "1"]

    wanted = answer_in_two_places(cancel=True)
    for tensor in shop.bank.parameters(POISONED).values():
        tensor.fill_(value)
    assert exactly(answer_in_two_places(cancel=False)) == exactly(wanted)


def explode_at(shop: Shop, slot: int, token: int) -> None:
    """An adapter of sound numbers whose products leave fp32 for one token of the vocabulary alone.

    In the first layer the input of a projection depends on the token and nothing else; a query that is
    merely huge is brought back by its norm, an infinite one is not.
    """
    model = shop.base.model
    batch_of_one = model.embed(torch.arange(model.config.vocab))
    x = torch.nn.functional.rms_norm(batch_of_one, (model.config.hidden,), eps=model.config.eps)
    x = x * model._layers[0].norms["input_layernorm"]
    direction = x[token] / x[token].square().sum()
    others = (x @ direction).abs()
    others[token] = 0
    assert others.max() < 0.8
    lora = LoraSpec(4, 4.0, (0, 6))
    shop.bank.initialise(slot, lora, 0)
    tensors = {name: torch.zeros_like(t) for name, t in shop.bank.parameters(slot).items()}
    tensors[tensor_name(0, "self_attn.q_proj", "A")][0] = 2 * direction
    tensors[tensor_name(0, "self_attn.q_proj", "B")][:, 0] = 2e38
    shop.bank.load(slot, Adapter(lora, tensors))


STAGED = SchemaSpec(
    {
        "type": "object",
        "properties": {name: {"enum": [0, 1]} for name in ("ok", "zebra", "end")},
        "required": ["ok", "zebra", "end"],
    }
)


def test_an_adapter_that_only_explodes_in_the_middle_of_an_answer(tiny_base_folder: Path) -> None:
    """Its other jobs, which never say the token, and its mates answer; the one that says it has an error."""
    shop = Shop(tiny_base_folder, (0, 0, 0, 0))
    encode = shop.renderer.text_ids
    texts = ["Anna met Bo", "\n\nAnswer:", '{"ok":0', '{"ok":1', " good", " goodish", " bad"]
    harmless = {token for text in texts for token in encode(text)}
    late = [token for token in encode('{"ok":0,"zebra":0') if token not in harmless]
    mates: list[Job] = [(LABELS, "fine", 0), (RECORD, "Anna met Bo", 2), (RECORD, "héllo 🦊", 3)]
    beside: Job = (STAGED, "Anna met Bo", POISONED)
    wanted, _ = answer(shop, mates, beside, cancel_after=2)
    explode_at(shop, POISONED, late[0])
    got, bad = answer(shop, mates, beside)
    assert exactly(got) == exactly(wanted)
    assert bad is not None
    assert "NaN or infinity" in str(bad.error)
    assert bad.computed_steps == 2
    (quiet,) = shop.run([shop.request("x", LABELS, "Anna met Bo", POISONED)])
    (_, again), bad = answer(shop, [mates[0], (LABELS, "Anna met Bo", POISONED)], beside)
    assert quiet.error is None
    assert again.value == quiet.value
    assert bad is not None
    assert bad.error is not None


def spoiled(adapter: Adapter, bank: AdapterBank) -> Iterator[tuple[str, Adapter | Body]]:
    """Adapters that must not be loaded, and what they are refused with."""
    tensors = dict(adapter.tensors)
    first, *rest = tensors
    body = Body(FullSpec((2, 6)), {})
    yield "NaN or infinity", Adapter(adapter.lora, {**tensors, first: tensors[first] * math.nan})
    yield "NaN or infinity", Adapter(adapter.lora, {**tensors, rest[-1]: tensors[rest[-1]] / 0})
    yield "has shape", Adapter(adapter.lora, {**tensors, first: tensors[first][:, 1:]})
    yield "has shape", Adapter(adapter.lora, {**tensors, first: tensors[first].t()})
    yield "not those of its config", Adapter(adapter.lora, {name: tensors[name] for name in rest})
    yield "not those of its config", Adapter(adapter.lora, {**tensors, "base_model.embed": tensors[first]})
    yield "has rank 64", Adapter(LoraSpec(64, 8.0, (2, 6)), _zeros(LoraSpec(64, 8.0, (2, 6)), bank))
    yield "another base", Adapter(LoraSpec(4, 8.0, (2, 18)), tensors)
    yield "not those of its config", body
    yield "another base", Body(FullSpec((2, 18)), {})


def _zeros(lora: LoraSpec, bank: AdapterBank) -> dict[str, torch.Tensor]:
    wide = AdapterBank(bank.config, 1, lora.rank, lora.layers, dtype=torch.float32)
    wide.occupy(0, lora)
    return dict(wide.parameters(0))


def test_refused_adapters_change_nothing_for_anybody(shop: Shop) -> None:
    jobs: list[Job] = [(LABELS, "fine", 0), (RECORD, "Bo", 3), (RECORD, "Anna met Bo", POISONED)]
    before = exactly(shop.run([shop.request(str(i), *job) for i, job in enumerate(jobs)]))
    held = shop.bank.adapter(POISONED)
    assert isinstance(held, Adapter)
    for message, bad in spoiled(held, shop.bank):
        with pytest.raises(ArtifactError, match=message):
            shop.bank.load(POISONED, bad)
        after = exactly(shop.run([shop.request(str(i), *job) for i, job in enumerate(jobs)]))
        assert after == before


def test_a_poisoned_body_fails_alone(shop: Shop) -> None:
    body = Body.of(shop.base.model, FullSpec((2, 6)))
    shop.bank.load(POISONED, Body(body.full, {name: t.clone() for name, t in body.tensors.items()}))
    beside: Job = (TextSpec(), "long " * 12, POISONED)
    wanted, _ = answer(shop, MANY, beside, cancel_after=1)
    for tensor in shop.bank.parameters(POISONED).values():
        tensor.fill_(math.nan)
    got, bad = answer(shop, MANY, beside)
    assert exactly(got) == exactly(wanted)
    assert bad is not None
    assert "NaN or infinity" in str(bad.error)
