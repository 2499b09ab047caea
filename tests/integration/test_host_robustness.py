"""The host with poisoned experts and odd jobs: each is told what is wrong, and the rest is answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fleet.asking import ROUTED_TOKENS
from fleet.engine.prompt import Renderer
from fleet.host import Host
from fleet.job import Job, Result
from fleet.project import Project
from fleet.workshop import DIGITS, EXPLOSIVE, FOX, GREEK, KINDS, LIMIT, RUSSIAN, SHORT, explode_on, open_shop


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


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Project:
    root = tmp_path_factory.mktemp("fleet")
    shop = open_shop(root, mlflow_template)
    for kind in KINDS:
        shop.make(kind, kind)
    for name, (how, _) in POISON.items():
        shop.make(name, **how)
    shop.make("explosive", "deep", tensors=explode_on(shop.base, EXPLOSIVE))
    both = {"swapped": GREEK, "unsealed": GREEK}
    shop.route({"mood": RUSSIAN, "record": DIGITS, "nan": FOX, **both})
    return Project.find(root)


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
