"""The host with poisoned experts and odd jobs: each is told what is wrong, and the rest is answered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fleet.engine.adapters import Adapter, AdapterBank, tensor_name
from fleet.engine.base import Base, load_base
from fleet.engine.expert import ExpertCard, golden_prompts, write_expert
from fleet.engine.prompt import Renderer, seal
from fleet.engine.specs import LoraSpec
from fleet.engine.testing import write_tiny_base
from fleet.host import ROUTED_TOKENS, Host
from fleet.job import Job, Result
from fleet.manifest import Manifest
from fleet.project import Project
from fleet.recipe import task_spec
from fleet.registry.store import ROUTER, Registry, RunRecord
from fleet.routing.artifact import save_router
from fleet.routing.fit import RouterTask, fit_router
from fleet.stores import open_registry

LIMIT = 24
"""Tokens of the longest job of most tasks here,"""
SHORT = 16
"""and of one."""
DIGITS = [f"{n} {n * 7} {n * n} {n + 3}" for n in range(30)]
RUSSIAN = [
    f"{word} посылка пришла {word}" for word in ("да", "нет", "вот", "там", "где", "кто", "как", "они")
]
FOX = [
    f"once upon a time the {word} fox" for word in ("red", "old", "big", "sad", "shy", "wet", "fat", "tan")
]
GREEK = [f"Καλημέρα σε όλους {word}" for word in ("ένα", "δύο", "τρία", "και", "όχι", "ναι", "πού", "πώς")]
RECORD = {
    "type": "object",
    "properties": {
        "who": {"type": "string", "x-verbatim": True},
        "code": {"type": ["string", "null"], "pattern": "^[A-Z]{2}\\d+$"},
    },
    "required": ["who", "code"],
}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "mood": {"kind": "classification", "labels": ["good", "goodish", "🎉 שלום", "bad"]},
    "record": {"kind": "extraction", "schema": RECORD, "serving": {"max_input_tokens": SHORT}},
    "story": {"kind": "generation", "serving": {"max_input_tokens": LIMIT, "max_output_tokens": 12}},
    "letter": {"kind": "classification", "labels": ["a", "b"], "input": ["subject", "body"]},
    "deep": {"kind": "classification", "labels": ["x", "y"], "adapter": {"layers": [0, 6], "rank": 8}},
}
EXPLOSIVE = "zebra"


class Workshop:
    """Makes experts for the tiny base and registers them as champions, whatever is in them."""

    def __init__(self, root: Path, registry: Registry) -> None:
        self.base: Base = load_base(root / "base")
        self.registry = registry
        self.place = root / "made"

    def make(
        self,
        task: str,
        kind: str = "mood",
        *,
        tensors: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
        card: Callable[[dict[str, Any]], None] = lambda card: None,
        spoil: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        """``tensors`` are changed before the golden prompts are taken, ``card`` and ``spoil`` afterwards."""
        about = {
            "task": task,
            "description": task,
            "data": {"train": "train.jsonl", "eval": "eval.jsonl"},
            "adapter": {"layers": [2, 6], "rank": 4},
            "serving": {"max_input_tokens": LIMIT},
        }
        manifest = Manifest.model_validate({**about, **KINDS[kind]})
        spec = task_spec(manifest)
        assert isinstance(spec.adapter, LoraSpec)
        model = self.base.model
        bank = AdapterBank(model.config, 1, spec.adapter.rank, spec.adapter.layers, dtype=torch.bfloat16)
        bank.initialise(0, spec.adapter, len(task))
        generator = torch.Generator().manual_seed(len(task))
        made = {
            name: t.detach().float() + 0.1 * torch.randn(t.shape, generator=generator)
            for name, t in bank.parameters(0).items()
        }
        tensors(made)
        adapter = Adapter(spec.adapter, made)
        bank.load(0, adapter)
        written = ExpertCard(
            task=task,
            manifest=manifest.snapshot(),
            manifest_digest=manifest.digest,
            data_digest="d",
            base_fingerprint=self.base.fingerprint,
            seal=seal(Renderer.of(self.base.tokenizer), spec),
            temperature=1.0,
            metrics={},
            golden=golden_prompts(self.base, bank, 0, spec, ["Anna met Bo", "14 98 196 17"]),
        )
        folder = self.place / task
        write_expert(folder, adapter, written, "tiny")
        plain = json.loads((folder / "expert.json").read_text())
        card(plain)
        (folder / "expert.json").write_text(json.dumps(plain))
        spoil(folder)
        info = self.registry.log_version(task, folder, RunRecord(), {})
        self.registry.set_alias(task, self.registry.champion_alias, info.version)

    def route(self, tasks: Mapping[str, list[str]]) -> None:
        """A router that knows these tasks by their texts."""
        known = [
            RouterTask(name, texts, [], "1", [f"{name}:{n}" for n in range(len(texts))])
            for name, texts in tasks.items()
        ]
        folder = self.place / "router"
        save_router(folder, fit_router(self.base, known, depth=2))
        info = self.registry.log_version(ROUTER, folder, RunRecord(), {}, kind="router")
        self.registry.set_alias(ROUTER, self.registry.champion_alias, info.version)


def rewrite(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    """Change the tensors in an artifact's file."""

    def spoil(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        tensors = {name: t.clone() for name, t in load_file(file).items()}
        change(tensors)
        save_file(tensors, file)

    return spoil


def one_nan(tensors: dict[str, torch.Tensor]) -> None:
    next(iter(tensors.values()))[0, 0] = float("nan")


def one_infinite(tensors: dict[str, torch.Tensor]) -> None:
    next(iter(tensors.values()))[0, 0] = float("-inf")


def narrower(tensors: dict[str, torch.Tensor]) -> None:
    for name, t in tensors.items():
        tensors[name] = t[:, :-1].contiguous() if "lora_A" in name else t


def shallower(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if ".layers.2." in name]:
        del tensors[name]


def other_weights(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if "lora_B" in name]:
        tensors[name] = -tensors[name]


def set_card(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda card: card.update(changes)


def not_a_card(folder: Path) -> None:
    (folder / "expert.json").write_text("[1, 2]")


def not_tensors(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 64)


POISON: Mapping[str, tuple[dict[str, Any], str]] = {
    "nan": ({"spoil": rewrite(one_nan)}, "holds NaN or infinity"),
    "infinite": ({"spoil": rewrite(one_infinite)}, "holds NaN or infinity"),
    "narrow": ({"spoil": rewrite(narrower)}, "has shape"),
    "shallow": ({"spoil": rewrite(shallower)}, "its manifest says"),
    "swapped": ({"spoil": rewrite(other_weights)}, "not the weights that were evaluated"),
    "foreign": ({"card": set_card(base_fingerprint="f" * 64)}, "trained over base"),
    "unsealed": ({"card": set_card(seal="0" * 64)}, "its prompt was sealed as"),
    "numbered": ({"card": set_card(base_fingerprint=7)}, "TypeError"),
    "unmanifest": ({"card": set_card(manifest={"task": 3})}, "description"),
    "listed": ({"spoil": not_a_card}, "cannot be read"),
    "noise": ({"spoil": not_tensors}, "cannot be read"),
}
"""Ways to be no expert, and what the quarantine says of each."""


def explode_on(base: Base, text: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """Sound numbers whose product leaves bf16 for the first token of ``text`` and for no other.

    In the first layer the input of a projection depends on the token alone.
    """
    model = base.model
    token = Renderer.of(base.tokenizer).text_ids(text)[0]
    x = model.embed(torch.arange(model.config.vocab)).float()
    x = torch.nn.functional.rms_norm(x, (model.config.hidden,), eps=model.config.eps)
    x = x * model._layers[0].norms["input_layernorm"]

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for t in tensors.values():
            t.zero_()
        tensors[tensor_name(0, "self_attn.q_proj", "A")][0] = 2 * x[token] / x[token].square().sum()
        tensors[tensor_name(0, "self_attn.q_proj", "B")][:, 0] = 5e37

    return change


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Project:
    root = tmp_path_factory.mktemp("fleet")
    write_tiny_base(root / "base")
    (root / "fleet.yaml").write_text("name: tiny\nbase: base\ntrunk_layers: 2\n")
    (root / ".fleet").mkdir()
    shutil.copyfile(mlflow_template, root / ".fleet" / "mlflow.db")
    project = Project.find(root)
    shop = Workshop(root, open_registry(project))
    for kind in KINDS:
        shop.make(kind, kind)
    for name, (how, _) in POISON.items():
        shop.make(name, **how)
    shop.make("explosive", "deep", tensors=explode_on(shop.base, EXPLOSIVE))
    both = {"swapped": GREEK, "unsealed": GREEK}
    shop.route({"mood": RUSSIAN, "record": DIGITS, "nan": FOX, **both})
    return project


@pytest.fixture
def host(project: Project) -> Host:
    return Host.open(project)


GOOD = [
    Job("mood", text="Anna met Bo", task="mood"),
    Job("record", text="Anna met Bo", task="record"),
    Job("story", text="Anna met Bo", task="story"),
    Job("letter", fields={"subject": "hello", "body": "שלום 🎉"}, task="letter"),
    Job("deep", text="Anna met Bo", task="deep"),
]


def values(results: list[Result]) -> dict[str, Any]:
    assert [result.error for result in results] == [None] * len(results)
    return {result.id: result.answers[0].value for result in results}


def test_every_poisoned_expert_is_quarantined_with_its_reason_and_the_others_answer(
    project: Project, host: Host
) -> None:
    wanted = values(Host.open(project).answer(GOOD))
    bad = [Job(name, text="Anna met Bo", task=name) for name in POISON]
    results = host.answer([*bad[:6], *GOOD, *bad[6:]])
    assert values([result for result in results if result.id in wanted]) == wanted
    for result in results:
        if result.id in POISON:
            assert POISON[result.id][1] in host.quarantined[result.id]
            assert result.error == f"{result.id} is quarantined: {host.quarantined[result.id]}"
            assert result.failed == {result.id: result.error}
            assert not result.bad_job
            assert result.answers == ()
    assert host.quarantined.keys() == POISON.keys()
    assert values(host.answer(GOOD)) == wanted


def test_an_expert_that_explodes_at_a_word_is_quarantined_when_it_does(host: Host) -> None:
    wanted = values(host.answer(GOOD))
    quiet = Job("quiet", text="Anna met Bo", task="explosive")
    assert host.answer([quiet])[0].answers[0].value in ("x", "y")
    loud = Job("loud", text=f"{EXPLOSIVE} met Bo", task="explosive")
    before, first, *rest = host.answer([quiet, loud, *GOOD])
    assert before.answers[0].value in ("x", "y")
    assert "explosive is quarantined: the expert computed NaN or infinity" in str(first.error)
    assert not first.bad_job
    assert values(rest) == wanted
    (after,) = host.answer([quiet])
    assert after.error == first.error
    assert values(host.answer(GOOD)) == wanted


def test_odd_inputs_are_the_job_s_own_fault_and_nobody_else_s(project: Project, host: Host) -> None:
    words = (
        "Anna met Bo on a fine day in Oslo, and they talked about the weather, the parcel and the fox. " * 3
    )
    fit, over = words, words
    renderer = Renderer.of(host.base.tokenizer)
    while len(renderer.job_ids(fit)) > LIMIT:
        over, fit = fit, fit[:-1]
    assert (len(renderer.job_ids(fit)), len(renderer.job_ids(over))) == (LIMIT, LIMIT + 1)
    odd = {
        "empty": Job("empty", text="", task="mood"),
        "blank": Job("blank", text=" \n\t\u3000", task="mood"),
        "nothing": Job("nothing", task="mood"),
        "no-fields": Job("no-fields", fields={}, task="mood"),
        "blank-fields": Job("blank-fields", fields={"subject": " ", "body": ""}, task="letter"),
        "missing": Job("missing", fields={"subject": "hello"}, task="letter"),
        "no-text": Job("no-text", fields={"subject": 3, "body": "x"}, task="letter"),  # type: ignore[dict-item]
        "half": Job("half", text="a\ud800b", task="mood"),
        "unknown": Job("unknown", text="x", task="moods"),
        "over": Job("over", text=over, task="mood"),
        "far-over": Job("far-over", text=words, task="story"),
        "endless": Job("endless", text="weather " * ROUTED_TOKENS, task="mood"),
    }
    told = {
        "empty": "is empty", "blank": "is empty", "nothing": "neither a text nor fields",
        "no-fields": "no field", "blank-fields": "is empty", "missing": "no field 'body'",
        "no-text": "must be text", "half": "surrogate", "unknown": "did you mean mood?",
        "over": f"has {LIMIT + 1} tokens, mood takes {LIMIT}", "far-over": f"story takes {LIMIT}",
        "endless": f"at most {ROUTED_TOKENS} are read",
    }  # fmt: skip
    wanted = values(Host.open(project).answer([*GOOD, Job("fit", text=fit, task="mood")]))
    mixed = [job for pair in zip(list(odd.values())[:6], [*GOOD, None], strict=True) for job in pair if job]
    results = host.answer([*mixed, *list(odd.values())[6:], Job("fit", text=fit, task="mood")])
    for result in results:
        if result.id in odd:
            assert told[result.id] in str(result.error)
            assert result.bad_job
            assert result.answers == ()
    assert values([result for result in results if result.id not in odd]) == wanted
    assert {result.id for result in results} == odd.keys() | wanted.keys()
    assert host.quarantined == {}


def test_odd_inputs_without_a_task_are_told_so_too(host: Host) -> None:
    jobs = [
        Job("empty", text=""),
        Job("endless", text="weather " * ROUTED_TOKENS),
        Job("fine", text=RUSSIAN[3]),
    ]
    empty, endless, fine = host.answer(jobs)
    assert "is empty" in str(empty.error)
    assert str(ROUTED_TOKENS) in str(endless.error)
    assert (empty.bad_job, endless.bad_job) == (True, True)
    assert fine.error is None


def test_a_side_expert_that_fails_is_named_and_the_chosen_one_s_answer_stands(host: Host) -> None:
    (alone,) = host.answer([Job("1", text=RUSSIAN[3])])
    (result,) = host.answer([Job("1", text=RUSSIAN[3])], top=3)
    assert result.decision is not None
    assert (result.decision.kind, result.decision.task) == ("route", "mood")
    assert (result.error, result.bad_job) == (None, False)
    assert [answer.task for answer in result.answers] == ["mood", "record"]
    assert result.answers[0].value == alone.answers[0].value
    assert result.failed == {"nan": f"nan is quarantined: {host.quarantined['nan']}"}


def test_a_chosen_expert_that_fails_is_the_error_and_the_others_answer_beside_it(host: Host) -> None:
    (result,) = host.answer([Job("1", text=FOX[3])], top=3)
    assert result.decision is not None
    assert result.decision.task == "nan"
    assert result.error == f"nan is quarantined: {host.quarantined['nan']}"
    assert result.failed == {"nan": result.error}
    assert sorted(answer.task for answer in result.answers) == ["mood", "record"]
    plain = asdict(replace(result, decision=None))
    assert json.loads(json.dumps(plain["failed"])) == result.failed


def test_where_the_router_hesitates_the_error_is_that_of_all_who_were_asked(host: Host) -> None:
    """Two tasks with the same rows: the job is put to both, and neither can answer."""
    (asked,) = host.answer([Job("1", text=GREEK[3])])
    assert asked.decision is not None
    assert (asked.decision.kind, asked.error, asked.failed) == ("clarify", None, {})
    (result,) = host.answer([Job("1", text=GREEK[3])], top=2)
    assert result.failed.keys() == {"swapped", "unsealed"}
    assert result.error == "; ".join(result.failed.values())
    assert not result.bad_job


def test_a_job_too_long_for_a_side_expert_is_no_bad_job(host: Host) -> None:
    renderer, text = Renderer.of(host.base.tokenizer), RUSSIAN[3]
    while (tokens := len(renderer.job_ids(text))) <= SHORT:
        text += " посылка"
    assert tokens <= LIMIT
    (result,) = host.answer([Job("1", text=text)], top=2)
    assert [answer.task for answer in result.answers] == ["mood"]
    assert (result.error, result.bad_job) == (None, False)
    assert list(result.failed) == ["record"]
    assert f"record takes {SHORT}" in result.failed["record"]
