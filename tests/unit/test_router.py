"""The router on synthetic gaussians: no model, real linear algebra, real files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from fleet.errors import ArtifactError, DigestError, SealError
from fleet.routing.artifact import FORMAT, load_router, save_router
from fleet.routing.background import load_background
from fleet.routing.budget import Budget
from fleet.routing.evidence import EXAMPLE, FOLDS, INPUT, Evidence, Pick, pick_rows
from fleet.routing.explain import explain
from fleet.routing.features import Frame, taps_of
from fleet.routing.head import Ground, Router
from fleet.routing.heldout import auroc, cross_validate
from fleet.routing.lexical import grams
from fleet.routing.reading import Readings
from fleet.routing.span import Span
from fleet.routing.statistics import Corpus, Statistics

WIDTH = 12
Raw = NDArray[np.float32]


def cloud(place: int, n: int, seed: int, distance: float = 6.0) -> Raw:
    """Raw features around one axis; place -1 is the background, around none."""
    rows = np.random.default_rng(seed).normal(size=(n, WIDTH))
    if place >= 0:
        rows[:, place] += distance
    return rows.astype(np.float32)


def jobs(raw: Raw, texts: Sequence[str] | None = None) -> Readings:
    """Jobs of these features; without letters of their own, unless given."""
    texts = texts or [""] * len(raw)
    return Readings(raw, grams(texts), (7,) * len(raw), tuple(texts))


@pytest.fixture(scope="module")
def ground() -> Ground:
    raw = cloud(-1, 60, 99)
    blank = np.full(WIDTH, -50, np.float32)
    frame = Frame.of(raw, blank, 2)
    texts = [f"{n} of the background" for n in range(60)]
    corpus = Corpus(frame.place(raw), grams(texts), np.arange(60) % FOLDS, frame.means)
    return Ground("f" * 64, (6,), frame, corpus, "d" * 64)


def evidence(ground: Ground, raw: Raw, name: str = "t", digest: str = "1") -> Evidence:
    picks = [Pick(f"{name} text {n}", f"{name}.jsonl:{n + 1}", INPUT, n % FOLDS) for n in range(len(raw))]
    letters = grams([""] * len(picks))
    return Evidence.of(digest, picks, ground.frame.place(raw), letters, [7] * len(raw), {"en": len(raw)})


@pytest.fixture(scope="module")
def parts(ground: Ground) -> dict[str, Evidence]:
    return {
        name: evidence(ground, cloud(n, 40, n), name) for n, name in enumerate(("alpha", "beta", "gamma"))
    }


@pytest.fixture(scope="module")
def router(ground: Ground, parts: dict[str, Evidence]) -> Router:
    return Router.build(ground, parts)


def same(a: Router, b: Router) -> bool:
    return (
        a.tasks == b.tasks
        and np.array_equal(a.dense.weights, b.dense.weights)
        and np.array_equal(a.dense.bias, b.dense.bias)
        and (a.lexicon.weights != b.lexicon.weights).nnz == 0
        and np.array_equal(a.lexicon.unseen, b.lexicon.unseen)
        and (a.scale, a.thresholds, a.metrics, a.fares) == (b.scale, b.thresholds, b.metrics, b.fares)
    )


def test_jobs_go_to_their_task_and_others_to_nobody(router: Router) -> None:
    for place, name in enumerate(router.tasks):
        decisions = router.decide(jobs(cloud(place, 50, 500 + place)))
        routed = [d for d in decisions if d.kind == "route"]
        assert len(routed) >= 40
        assert all(d.task == name and d.tasks == (name,) for d in routed)
        assert all(d.fit is not None and d.fit >= router.thresholds.fit for d in routed)
    decisions = router.decide(jobs(cloud(-1, 50, 600)))
    assert sum(d.kind == "abstain" for d in decisions) >= 45
    assert all("no expert fits" in d.reason for d in decisions if d.kind == "abstain")
    assert router.decide(jobs(cloud(0, 0, 0))) == []


def test_a_job_between_two_tasks_is_asked_back(ground: Ground) -> None:
    twins = {
        name: evidence(ground, cloud(0, 60, seed, 9.0), name) for seed, name in ((1, "left"), (2, "right"))
    }
    router = Router.build(ground, twins)
    decisions = router.decide(jobs(cloud(0, 60, 3, 9.0)))
    asked = [d for d in decisions if d.kind == "clarify"]
    assert asked
    assert all(set(d.tasks) == {"left", "right"} and d.task is None for d in asked)
    assert all("left" in d.reason and "right" in d.reason for d in asked)


def test_each_job_of_a_batch_is_decided_as_if_alone(router: Router) -> None:
    raw = np.concatenate([cloud(0, 5, 1), cloud(-1, 5, 2), cloud(2, 5, 3)])
    together = router.decide(jobs(raw))
    for row, decision in zip(raw, together, strict=True):
        (alone,) = router.decide(jobs(row[None]))
        assert (alone.kind, alone.task, alone.tasks) == (decision.kind, decision.task, decision.tasks)
        assert alone.confidence == pytest.approx(decision.confidence, abs=1e-5)


def test_add_replace_and_remove_leave_what_a_fresh_fit_gives(
    ground: Ground, parts: dict[str, Evidence], router: Router
) -> None:
    two = Router.build(ground, {name: parts[name] for name in ("gamma", "alpha")})
    assert same(two.add("beta", parts["beta"]), router)
    assert same(router.remove("beta"), two)
    other = evidence(ground, cloud(5, 30, 7), "beta", digest="2")
    replaced = router.replace("beta", other)
    assert same(replaced, two.add("beta", other))
    assert replaced.data_digests == {"alpha": "1", "beta": "2", "gamma": "1"}
    assert all(d.task != "beta" for d in router.remove("beta").decide(jobs(cloud(1, 30, 8))))
    with pytest.raises(ValueError, match="replace it"):
        router.add("beta", other)
    with pytest.raises(KeyError):
        router.remove("delta")
    with pytest.raises(KeyError):
        two.replace("beta", other)


def test_a_fleet_of_one_routes_or_abstains(ground: Ground, parts: dict[str, Evidence]) -> None:
    router = Router.build(ground, {"alpha": parts["alpha"]})
    assert sum(d.task == "alpha" for d in router.decide(jobs(cloud(0, 40, 11)))) >= 32
    assert sum(d.kind == "abstain" for d in router.decide(jobs(cloud(-1, 40, 12)))) >= 36
    assert same(router.replace("alpha", parts["alpha"]), router)
    with pytest.raises(ValueError, match="at least one task"):
        router.remove("alpha")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_task_of_very_few_rows_still_works(ground: Ground, n: int) -> None:
    router = Router.build(ground, {"tiny": evidence(ground, cloud(0, n, 0))})
    assert np.isfinite(router.thresholds.fit)
    assert router.decide(jobs(cloud(0, 1, 0)))[0].kind in ("route", "abstain")
    assert router.thresholds.origin


def test_only_known_tasks_are_routed_to(router: Router) -> None:
    everybody = router.decide(jobs(cloud(1, 20, 13)))
    assert sum(decision.task == "beta" for decision in everybody) > 10
    for known in ({"alpha", "gamma"}, {"alpha"}):
        for free, decision in zip(everybody, router.decide(jobs(cloud(1, 20, 13)), known=known), strict=True):
            assert "beta" not in decision.tasks
            assert "beta" not in dict(decision.scores)
            assert (decision.fit, decision.confidence) == (free.fit, free.confidence)
            if free.task == "beta":  # and nobody else gets its jobs
                assert (decision.kind, decision.cause) == ("abstain", "no_expert")
                assert "beta" in decision.reason
                seen = decision.within({"alpha"})
                assert seen is not None
                assert "beta" not in seen.reason
    row = [decision.task for decision in everybody].index("beta")
    explained = explain(router, jobs(cloud(1, 20, 13)[[row]]), known={"alpha"})
    assert explained["cause"] == "no_expert"
    assert [each["task"] for each in explained["tasks"] if "answers" not in each] == ["alpha"]
    for decision in router.decide(jobs(cloud(1, 2, 13)), known=frozenset()):
        assert decision.kind == "abstain"


def test_no_text_and_broken_features_abstain(router: Router) -> None:
    raw = np.stack([router.ground.frame.blank, np.full(WIDTH, np.nan, np.float32), cloud(0, 1, 1)[0]])
    decisions = router.decide(jobs(raw))
    assert [d.kind for d in decisions[:2]] == ["abstain", "abstain"]
    assert decisions[0].fit is None
    assert decisions[2].fit is not None


def test_explain_names_rows_runner_up_and_thresholds(router: Router) -> None:
    explained = explain(router, jobs(cloud(1, 1, 21), ["beta text"]), neighbours=4)
    assert json.loads(json.dumps(explained)) == explained
    assert explained["tasks"][0]["task"] == "beta"
    assert explained["runner_up"] in ("alpha", "gamma")
    assert explained["thresholds"]["origin"] == router.thresholds.origin
    nearest = explained["nearest"]
    assert len(nearest) == 4
    assert nearest[0]["task"] == "beta"
    assert nearest[0]["source"].startswith("beta.jsonl:")
    assert [row["cosine"] for row in nearest] == sorted((row["cosine"] for row in nearest), reverse=True)


def test_artifact_comes_back_bit_for_bit(router: Router, tmp_path: Path) -> None:
    digest = save_router(tmp_path / "a", router)
    loaded = load_router(tmp_path / "a", digest=digest)
    assert save_router(tmp_path / "b", loaded) == digest
    assert same(loaded, router)
    raw = cloud(2, 10, 31)
    assert loaded.decide(jobs(raw)) == router.decide(jobs(raw))
    assert same(loaded.remove("beta"), router.remove("beta"))
    loaded.check_base("f" * 64)
    with pytest.raises(SealError, match="fit"):
        loaded.check_base("0" * 64)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"router.json", "router.safetensors"}


def test_altered_artifacts_are_refused(router: Router, tmp_path: Path) -> None:
    digest = save_router(tmp_path, router)
    card = tmp_path / "router.json"
    whole = card.read_text()
    card.write_text(whole.replace('"fit"', '"fit" '))
    with pytest.raises(DigestError, match="altered"):
        load_router(tmp_path, digest=digest)
    for broken in (
        "",
        "[]",
        "[" * 100_000,
        whole.replace(f'"format": {FORMAT}', '"format": 99'),
        whole.replace('"taps"', '"tap"'),
        *(
            json.dumps({**json.loads(whole), part: {**json.loads(whole)[part], name: value}})
            for part, name, value in (
                ("thresholds", "fit", float("nan")),
                ("thresholds", "probability", "0.9"),
                ("thresholds", "tasks", {"beta": 7.0}),
                ("scale", "temperature", 0.0),
                ("scale", "means", float("inf")),
                ("scale", "letters", -1.0),
                ("scale", "letters", 10**400),
                ("budget", "max_misroute", None),
                ("metrics", "cv_rows", "many"),
                ("metrics", "cv_rows", float("nan")),
            )
        ),
        whole.replace(f"     {INPUT},\n     0,", f"     {EXAMPLE + 1},\n     0,"),
        whole.replace(f"     {INPUT},\n     0,", f"     {INPUT},\n     {FOLDS},"),
    ):
        assert broken != whole
        card.write_text(broken)
        with pytest.raises(ArtifactError, match="cannot be used"):
            load_router(tmp_path)
    card.write_text(whole)
    tensors = load_file(tmp_path / "router.safetensors")
    for name, wrong in (
        ("map.weights", tensors["map.weights"][:1].copy()),
        ("task.beta.rows", tensors["task.beta.rows"][:, :3].copy()),
        ("background.grams", np.full_like(tensors["background.grams.indices"], -1)),
        ("frame.spread", np.full(WIDTH, np.nan, np.float32)),
        ("task.alpha.rows", np.full_like(tensors["task.alpha.rows"], -128)),
        ("background.folds", np.full_like(tensors["background.folds"], FOLDS)),
        ("background.folds", np.array(1)),
        ("frame.centre", np.array(0, np.float32)),
    ):
        key = f"{name}.indices" if name.endswith("grams") else name
        save_file({**tensors, key: wrong}, tmp_path / "router.safetensors")
        with pytest.raises(ArtifactError, match=name):
            load_router(tmp_path)
    save_file({**tensors, "frame.spread": np.zeros(WIDTH, np.float32)}, tmp_path / "router.safetensors")
    with pytest.raises(ArtifactError, match="spread"):
        load_router(tmp_path)
    (tmp_path / "router.safetensors").write_bytes(b"no")
    with pytest.raises(ArtifactError):
        load_router(tmp_path)


def test_a_router_over_a_task_of_one_row_can_be_loaded(
    ground: Ground, parts: dict[str, Evidence], tmp_path: Path
) -> None:
    router = Router.build(ground, {**parts, "one": evidence(ground, cloud(5, 1, 5), "one")})
    assert router.fares["one"].coverage is None
    loaded = load_router(tmp_path, digest=save_router(tmp_path, router))
    assert same(loaded, router)
    explained = explain(loaded, jobs(cloud(5, 1, 5)))
    assert json.loads(json.dumps(explained)) == explained


def test_a_card_that_does_not_agree_with_itself_is_refused(
    ground: Ground, parts: dict[str, Evidence], tmp_path: Path
) -> None:
    save_router(tmp_path, Router.build(ground, parts, Budget(0.2, {"alpha": 0.05, "gone": 0.01})))
    whole = (tmp_path / "router.json").read_text()
    load_router(tmp_path)
    for path, value in (
        (("taps",), []),
        (("taps",), [6, 4]),
        (("taps",), [2, 4, 6]),
        (("blocks",), 1),
        (("blocks",), 12),
        (("thresholds", "tasks"), {}),
        (("thresholds", "tasks"), {"nobody": 0.9}),
        (("thresholds", "unshown"), ["nobody"]),
        (("scale", "temperature"), 1e-300),
        (("tasks", "alpha", "fare", "rows"), -5),
        (("tasks", "alpha", "fare", "high"), 7.0),
        (("tasks", "alpha", "fare", "misroutes"), 10_000),
    ):
        card = json.loads(whole)
        place = card
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        (tmp_path / "router.json").write_text(json.dumps(card))
        with pytest.raises(ArtifactError, match="cannot be used"):
            load_router(tmp_path)


def test_rows_with_an_instruction_are_judged_in_a_large_fleet_too(ground: Ground) -> None:
    fleet = {}
    for task in range(45):
        picks = pick_rows(
            [f"row {n} of {task}" for n in range(500)], [f"do {task}", f"please {task}"], ["s"] * 500
        )
        raw = cloud(task % WIDTH, len(picks), task)
        letters = grams([""] * len(picks))
        fleet[f"t{task}"] = Evidence.of("1", picks, ground.frame.place(raw), letters, [7] * len(picks))
    held = cross_validate(fleet, ground.corpus, Statistics.of(fleet, ground.corpus))
    for column in range(45):
        assert not held.inputs[held.truth == column].all()


def test_a_language_of_a_small_task_is_known_beside_large_ones(ground: Ground) -> None:
    raw = cloud(0, 40, 0)
    large = replace(evidence(ground, raw), languages={"en": 5000, "fr": 3, "de": 500})
    small = replace(evidence(ground, raw), languages={"ru": 12, "bg": 1})
    tiny = replace(evidence(ground, raw), languages={"ja": 1})
    assert Span.of([large, small, tiny]).languages == {"en", "de", "ru", "ja"}


@given(st.lists(st.integers(0, 9), min_size=1), st.lists(st.integers(0, 9), min_size=1))
def test_auroc_counts_pairs(a: list[int], b: list[int]) -> None:
    pairs = [(x > y) + 0.5 * (x == y) for x in a for y in b]
    assert auroc(np.array(a, float), np.array(b, float)) == pytest.approx(sum(pairs) / len(pairs))


def test_the_packaged_background_is_varied() -> None:
    background = load_background()
    assert len(background.texts) == len(background.groups) == len(set(background.texts))
    assert len(background.texts) >= 250
    assert len(set(background.groups)) >= 15


def test_taps_lie_in_the_trunk() -> None:
    assert taps_of(6) == (4, 6)
    assert taps_of(1) == (1,)
    assert all(1 <= tap <= depth for depth in range(1, 30) for tap in taps_of(depth))
