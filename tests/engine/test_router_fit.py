"""The router fitted over the tiny base: what is computed anew, and what is taken over."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from fleet.engine.base import Base, load_base
from fleet.engine.gemma import Gemma
from fleet.engine.prompt import Renderer
from fleet.engine.trunk import run_trunk
from fleet.routing.artifact import load_router, save_router
from fleet.routing.background import Foreign
from fleet.routing.evidence import pick_rows
from fleet.routing.explain import explain
from fleet.routing.fit import fit_router
from fleet.routing.head import Router
from fleet.routing.reading import Readings, read_texts
from fleet.routing.stability import WAYS, pick_changes
from fleet.routing.task import RouterTask

DIGITS = [f"{n} {n * 7} {n * n} {n + 3}" for n in range(30)]
RUSSIAN = [
    f"{word} посылка пришла {word}"
    for word in ["да", "нет", "вот", "там", "где", "кто", "как", "мы", "вы", "они"]
]
MOUSE = [
    f"once upon a time the {word} fox"
    for word in ["red", "old", "big", "sad", "shy", "wet", "fat", "odd", "new", "tan"]
]


@pytest.fixture(scope="module")
def base(tiny_base_folder: Path) -> Base:
    return load_base(tiny_base_folder)


def task(name: str, texts: list[str], digest: str = "1") -> RouterTask:
    return RouterTask(name, texts, [f"do {name}"], digest, [f"{name}.jsonl:{n}" for n in range(len(texts))])


@pytest.fixture(scope="module")
def router(base: Base) -> Router:
    return fit_router(base, [task("digits", DIGITS), task("russian", RUSSIAN)])


def test_unlike_texts_find_their_task(base: Base, router: Router) -> None:
    renderer = Renderer(base.tokenizer)
    ids = [renderer.job_ids(text) for text in ("8 56 64 11 7", "они посылка пришла где")]
    states = run_trunk(base.model, 6, [*ids, [renderer.bos]], taps=router.taps)
    read = Readings.of(states, ["8 56 64 11 7", "они посылка пришла где", ""], router.taps)
    numbers, words, blank = router.decide(read)
    assert numbers.scores[0][0] == "digits"
    assert words.scores[0][0] == "russian"
    assert blank.kind == "abstain"
    assert "no text" in blank.reason
    russian = Readings.of(states[1:2], ["они посылка пришла где"], router.taps)
    nearest = explain(router, russian)["nearest"]
    assert nearest[0]["task"] == "russian"
    assert "посылка" in nearest[0]["text"]


def test_unchanged_tasks_are_not_computed_again(base: Base, router: Router, tmp_path: Path) -> None:
    previous = load_router(tmp_path, digest=save_router(tmp_path, router))
    tasks = [task("digits", DIGITS), task("mouse", MOUSE), task("russian", RUSSIAN)]
    grown = fit_router(base, tasks, previous=previous)
    assert all(grown.evidence[name] is previous.evidence[name] for name in previous.tasks)
    fresh = fit_router(base, tasks)
    assert save_router(tmp_path / "grown", grown) == save_router(tmp_path / "fresh", fresh)

    changed = fit_router(base, [task("digits", DIGITS[:20], "2"), *tasks[1:]], previous=grown)
    assert changed.data_digests == {"digits": "2", "mouse": "1", "russian": "1"}
    assert len(changed.evidence["digits"].rows) < len(grown.evidence["digits"].rows)

    without_model = dataclasses.replace(base, model=cast(Gemma, None))
    shrunk = fit_router(without_model, tasks[:1], previous=grown)
    assert shrunk.tasks == ("digits",)


def test_a_fleets_own_jobs_of_nobody_are_learned_and_cost_no_task_anew(
    base: Base, router: Router, tmp_path: Path
) -> None:
    tasks = [task("digits", DIGITS), task("russian", RUSSIAN)]
    foreign = Foreign.of([*MOUSE, MOUSE[0], " "])
    assert len(foreign.texts) == len(MOUSE)
    assert foreign == Foreign.of(reversed(MOUSE))
    told = fit_router(base, tasks, previous=router, foreign=foreign)
    assert told.ground.corpus.own == len(MOUSE)
    assert all(told.evidence[name] is router.evidence[name] for name in router.tasks)
    assert 0 <= told.metrics["foreign_routed"] <= 1
    assert not any(name.startswith("foreign") for name in router.metrics)
    read = read_texts(
        base, [f"once upon a time the {word} fox" for word in ("kind", "tall", "loud")], told.taps
    )
    assert (told.scores(read).max(1) < router.scores(read).max(1)).all()

    digest = save_router(tmp_path, told)
    loaded = load_router(tmp_path, digest=digest)
    assert (loaded.ground.corpus.own, loaded.ground.own_digest) == (len(MOUSE), foreign.digest)
    again = fit_router(
        dataclasses.replace(base, model=cast(Gemma, None)), tasks[:1], previous=loaded, foreign=foreign
    )
    assert again.ground is loaded.ground
    forgotten = fit_router(base, tasks, previous=loaded)
    assert save_router(tmp_path / "a", forgotten) == save_router(tmp_path / "b", router)


def test_another_base_or_depth_is_fitted_from_nothing(base: Base, router: Router) -> None:
    other = dataclasses.replace(base, fingerprint="another")
    anew = fit_router(other, [task("digits", DIGITS)], previous=router)
    assert anew.ground.base_fingerprint == "another"
    shallow = fit_router(base, [task("digits", DIGITS)], previous=router, depth=3)
    assert shallow.taps == (2, 3)
    assert np.isfinite(shallow.dense.weights).all()


def test_every_fit_tries_changes_and_attacks(router: Router) -> None:
    changes = router.evidence["russian"].changes
    assert changes is not None
    assert len(changes.rows) == len(changes.ways) == changes.grams.shape[0] > 50
    assert {WAYS[way] for way in changes.ways} >= {"typos", "whitespace", "truncation", "emoji"}
    for name in ("flip_rate", "astray_rate", "flip_whitespace", "attack_success", "attack_unrouted"):
        assert 0 <= router.metrics[name] <= 1, name
    assert not any(name.startswith("attack") for name in router.remove("russian").metrics)


def test_another_language_is_an_input_of_the_same_fold(base: Base) -> None:
    texts = [f"{n} parcels arrived" for n in range(12)] + [f"{n} посылок пришло" for n in range(12)]
    picks = pick_rows(texts, [], [""] * len(texts))
    languages = ["ru" if "посылок" in pick.text else "en" for pick in picks]
    found = [each for each in pick_changes(picks, languages) if WAYS[each[1]] == "another language"]
    assert found
    for origin, _, text in found:
        other = next(n for n, pick in enumerate(picks) if pick.text == text)
        assert languages[origin] != languages[other]
        assert picks[origin].fold == picks[other].fold


def test_bad_calls_are_refused(base: Base) -> None:
    with pytest.raises(ValueError, match="at least one task"):
        fit_router(base, [])
    with pytest.raises(ValueError, match="at least one text"):
        task("empty", [" "])
    with pytest.raises(ValueError, match="two tasks"):
        fit_router(base, [task("digits", DIGITS), task("digits", DIGITS)])
