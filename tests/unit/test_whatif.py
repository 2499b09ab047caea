"""Whose jobs a new task takes, on gaussians: no model, real routers."""

from __future__ import annotations

import numpy as np
import pytest
from test_router import WIDTH, cloud, evidence, jobs

from fleet.routing.collisions import find_collisions
from fleet.routing.evidence import FOLDS
from fleet.routing.features import Frame
from fleet.routing.head import Ground, Router
from fleet.routing.lexical import grams
from fleet.routing.likeness import judge_router
from fleet.routing.statistics import Corpus
from fleet.routing.whatif import WhatIf, what_if


@pytest.fixture(scope="module")
def ground() -> Ground:
    raw = cloud(-1, 60, 99)
    frame = Frame.of(raw, np.full(WIDTH, -50, np.float32), 2)
    corpus = Corpus(
        frame.place(raw), grams([f"{n} ground" for n in range(60)]), np.arange(60) % FOLDS, frame.means
    )
    return Ground("f" * 64, (6,), frame, corpus, "d" * 64)


@pytest.fixture(scope="module")
def router(ground: Ground) -> Router:
    parts = {name: evidence(ground, cloud(n, 40, n), name) for n, name in enumerate(("alpha", "beta"))}
    return Router.build(ground, parts)


def tried(router: Router, ground: Ground, place: int, *, owned: bool = True) -> WhatIf:
    """Ten jobs each of alpha and beta, and ten of a third place, which nobody has."""
    read = jobs(
        np.concatenate([cloud(0, 10, 50), cloud(1, 10, 51), cloud(2, 10, 52)]),
        [f"job {n} " + "x" * 100 for n in range(30)],
    )
    owners = ["alpha"] * 10 + ["beta"] * 10 + [None] * 10 if owned else None
    return what_if(
        router,
        router.add("new", evidence(ground, cloud(place, 40, 7), "new")),
        "new",
        read,
        [f"line {n}" for n in range(30)],
        owners,
        jobs(cloud(place, 10, 60)),
        ("alpha", "beta", "unknown"),
    )


def test_a_task_apart_takes_what_nobody_had(router: Router, ground: Ground) -> None:
    found = tried(router, ground, 2)
    alpha, beta, nobody = found.shifts
    assert [shift.task for shift in found.shifts] == ["alpha", "beta", None]
    assert (alpha.jobs, alpha.taken, beta.taken) == (10, 0, 0)
    assert nobody.taken >= 8
    assert found.own.routed >= 8
    assert all(each.before is None for each in found.taken)
    assert all(len(each.text) <= 80 for each in found.taken)


def test_a_task_in_anothers_place_takes_or_disturbs_that_ones_jobs(router: Router, ground: Ground) -> None:
    alpha, beta, _ = tried(router, ground, 1).shifts
    assert alpha.taken + alpha.asked == 0
    assert beta.before >= 8
    assert beta.taken + beta.asked + beta.abstained >= 4
    assert beta.after < beta.before


def test_jobs_of_unknown_owners_are_counted_by_who_has_them(router: Router, ground: Ground) -> None:
    found = tried(router, ground, 1, owned=False)
    for shift in found.shifts:
        assert shift.jobs is None
        stay = shift.before - shift.taken - shift.asked - shift.abstained - shift.moved
        assert 0 <= stay <= shift.before
    assert sum(shift.before for shift in found.shifts) == 30
    assert all(each.wrong is None for each in found.taken)


def test_a_router_that_has_the_task_already_says_the_same(router: Router, ground: Ground) -> None:
    new = evidence(ground, cloud(2, 40, 7), "new")
    grown = router.add("new", new)
    again = grown.remove("new")
    read = jobs(cloud(2, 20, 52))
    assert again.decide(read) == router.decide(read)


def test_a_routers_own_scores_find_tasks_that_only_states_confuse(router: Router, ground: Ground) -> None:
    texts = {name: [f"{name} {n}" for n in range(40)] for name in ("alpha", "beta", "twin")}
    assert find_collisions({name: texts[name] for name in router.tasks}, judge_router(router)) == []
    three = router.add("twin", evidence(ground, cloud(1, 40, 8), "twin"))
    (pair,) = find_collisions(texts, judge_router(three))
    assert (pair.first, pair.second) == ("beta", "twin")
