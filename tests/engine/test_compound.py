"""Jobs that need several tasks, recognised over the tiny base: from clauses and from nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fleet.engine.base import Base, load_base
from fleet.engine.prompt import Renderer
from fleet.engine.trunk import POOLED_TOKENS, TrunkState, run_trunk
from fleet.errors import ArtifactError
from fleet.routing.artifact import load_router, save_router
from fleet.routing.budget import Budget
from fleet.routing.compound import Claim, Compounds, read_clauses
from fleet.routing.decision import Cause, Decision
from fleet.routing.fit import fit_router
from fleet.routing.head import Router
from fleet.routing.joining import FALSE
from fleet.routing.reading import Readings
from fleet.routing.task import RouterTask
from fleet.workshop import ASKS, COMPOUND, DIGITS, FOX, RUSSIAN

DEPTH = 2
Asked = Callable[[str], tuple[Decision, tuple[Claim, ...]]]


@pytest.fixture(scope="module")
def base(tiny_base_folder: Path) -> Base:
    return load_base(tiny_base_folder)


def task(name: str, texts: list[str], asks: list[str]) -> RouterTask:
    return RouterTask(name, texts, asks, "1", [f"{name}:{n}" for n in range(len(texts))], name)


TASKS = [task("mood", RUSSIAN, ASKS["mood"]), task("story", FOX, ASKS["story"]), task("digits", DIGITS, [])]


@pytest.fixture(scope="module")
def router(base: Base) -> Router:
    return fit_router(base, TASKS, depth=DEPTH)


def read(base: Base, router: Router, text: str) -> TrunkState:
    (state,) = run_trunk(base.model, DEPTH, [Renderer.of(base.tokenizer).job_ids(text)], taps=router.taps)
    return state


@pytest.fixture(scope="module")
def asked(base: Base, router: Router) -> Asked:
    def ask(text: str) -> tuple[Decision, tuple[Claim, ...]]:
        state = read(base, router, text)
        (plain,) = router.decide(Readings.of([state], [text], router.taps))
        assert router.compounds is not None
        renderer = Renderer.of(base.tokenizer)
        return router.compounds.seek(plain, text, state, router.ground.frame, renderer)

    return ask


def test_a_job_that_asks_for_two_tasks_is_compound_and_lists_them_in_its_order(asked: Asked) -> None:
    decision, claims = asked(COMPOUND)
    assert decision.kind == "compound"
    assert decision.task is None
    assert decision.tasks == ("story", "mood")
    assert [(claim.task, claim.words) for claim in claims] == [
        ("story", "tell the fat tale"),
        ("mood", "разбери их"),
    ]
    assert decision.confidence == min(claim.probability for claim in claims)
    assert "story" in decision.reason
    assert "mood" in decision.reason


@pytest.mark.parametrize(
    "text",
    [
        ASKS["mood"][0],
        f"{ASKS['mood'][0]}\n{RUSSIAN[4]}",
        f"{ASKS['mood'][0]}, {ASKS['mood'][1]}",
        f"{RUSSIAN[2]}, {RUSSIAN[3]}",
        f"{RUSSIAN[2]}. {FOX[1]}",
        f"{ASKS['mood'][0]}\n{FOX[1]}",
        "1 2. 3 4",
        "",
    ],
)
def test_one_task_is_never_compound_whatever_it_is_asked_of(text: str, asked: Asked) -> None:
    decision, claims = asked(text)
    assert decision.kind != "compound"
    assert claims == ()


def test_nothing_is_compound_above_the_bar(base: Base, router: Router) -> None:
    assert router.compounds is not None
    never = dataclasses.replace(router.compounds, bar=1.01)
    plain = Decision("clarify", None, ("mood", "story"), 0.5, 1.0, "either")
    state = read(base, router, COMPOUND)
    renderer = Renderer.of(base.tokenizer)
    assert never.seek(plain, COMPOUND, state, router.ground.frame, renderer) == (plain, ())


def test_an_abstention_that_has_another_cause_stays(base: Base, router: Router) -> None:
    assert router.compounds is not None
    state = read(base, router, COMPOUND)
    kinds: dict[Cause, str] = {"no_fit": "compound", "too_long": "compound"}
    kinds |= {"too_short": "abstain", "no_expert": "abstain", "language": "abstain"}
    for cause, kind in kinds.items():
        plain = Decision("abstain", None, (), 0.5, 1.0, "no", cause=cause)
        made, _ = router.compounds.seek(
            plain, COMPOUND, state, router.ground.frame, Renderer.of(base.tokenizer)
        )
        assert made.kind == kind


def test_a_clause_is_the_mean_of_the_states_of_its_own_tokens(base: Base, router: Router) -> None:
    renderer = Renderer.of(base.tokenizer)
    state = read(base, router, COMPOUND)
    places, pooled = read_clauses(COMPOUND, state, renderer)
    assert [COMPOUND[slice(*place)] for place in places] == ["tell the fat tale", "разбери их"]
    tokens = len(renderer.text_ids("tell the fat tale"))
    own = state.hidden[1 : 1 + tokens].float().mean(0).numpy()
    assert np.allclose(pooled[0], own, atol=1e-5)


def test_what_is_asked_below_a_long_text_is_read_too(base: Base, router: Router) -> None:
    renderer = Renderer.of(base.tokenizer)
    text = f"{'the fox ran. ' * 400}\n\n{COMPOUND}"
    state = read(base, router, text)
    assert len(state.ids) > 1 + POOLED_TOKENS
    places, pooled = read_clauses(text, state, renderer)
    assert text[slice(*places[-1])] == "разбери их"
    tokens = len(renderer.text_ids("разбери их"))
    assert np.allclose(pooled[-1], state.hidden[-tokens:].float().mean(0).numpy(), atol=1e-5)


def test_another_budget_recognises_the_same_jobs(router: Router) -> None:
    assert router.under(Budget(0.02)).compounds is router.compounds


def test_the_fit_says_how_held_out_jobs_fared(router: Router) -> None:
    figures = router.metrics
    assert router.compounds is not None
    assert router.compounds.tasks == ("mood", "story")
    assert figures["compound_bar"] == router.compounds.bar
    for group in ("compound_false", "compound_false_instructions", "compound_false_inputs"):
        assert figures[group] <= FALSE
    assert figures["compound_found"] >= figures["compound_right"] > 0.5
    assert figures["compound_rows"] == 10
    assert figures["compound_ordinary_rows"] > 50


def test_without_two_tasks_that_have_examples_no_job_is_compound(base: Base) -> None:
    alone = fit_router(base, [TASKS[0], TASKS[2]], depth=DEPTH)
    assert alone.compounds is None
    assert not any(name.startswith("compound") for name in alone.metrics)


def test_a_task_more_and_less_leaves_no_trace(base: Base, router: Router, tmp_path: Path) -> None:
    less = fit_router(base, TASKS[:2], depth=DEPTH, previous=router)
    again = fit_router(base, TASKS, depth=DEPTH, previous=less)
    assert save_router(tmp_path / "again", again) == save_router(tmp_path / "first", router)
    assert router.remove("digits").compounds is None


def test_it_comes_back_from_disk_bit_for_bit(router: Router, tmp_path: Path) -> None:
    loaded = load_router(tmp_path, digest=save_router(tmp_path, router)).compounds
    held = router.compounds
    assert loaded is not None
    assert held is not None
    assert (loaded.tasks, loaded.bar) == (held.tasks, held.bar)
    assert np.array_equal(loaded.weights, held.weights)
    assert np.array_equal(loaded.bias, held.bias)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": ["mood", "unheard"]}, "not tasks of the router"),
        ({"tasks": ["mood", "mood"]}, "not tasks of the router"),
        ({"tasks": ["mood"]}, "compound.tasks"),
        ({"tasks": ["mood", "story", "digits"]}, "compound.weights"),
        ({"bar": 0.0}, "compound.bar"),
        ({"bar": float("nan")}, "compound.bar"),
    ],
)
def test_a_card_that_does_not_suit_is_refused(
    change: dict[str, object], said: str, router: Router, tmp_path: Path
) -> None:
    save_router(tmp_path, router)
    card = json.loads((tmp_path / "router.json").read_text())
    card["compound"].update(change)
    (tmp_path / "router.json").write_text(json.dumps(card))
    with pytest.raises(ArtifactError, match=said):
        load_router(tmp_path)


def test_weights_that_are_no_numbers_are_refused(router: Router, tmp_path: Path) -> None:
    save_router(tmp_path, router)
    tensors = load_file(tmp_path / "router.safetensors")
    tensors["compound.bias"] = np.full_like(tensors["compound.bias"], np.nan)
    save_file(tensors, tmp_path / "router.safetensors")
    with pytest.raises(ArtifactError, match=r"compound\.bias"):
        load_router(tmp_path)


def test_a_map_of_another_size_is_none() -> None:
    with pytest.raises(ValueError, match="a row of weights"):
        Compounds(("a", "b"), np.zeros((2, 4), np.float32), np.zeros(2, np.float32), 0.5)
