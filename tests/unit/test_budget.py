"""Budget, calibration, flips and the gate of routers on made-up scores: what is promised is kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from fleet.registry.policy import Policy, RouterGate
from fleet.routing.budget import Budget
from fleet.routing.calibrate import Scale, calibrate, calibration_error
from fleet.routing.heldout import Changed, HeldOut, Views
from fleet.routing.judged import Judged
from fleet.routing.report import fares, figures
from fleet.routing.stability import WAYS, flips
from fleet.routing.thresholds import EQUAL, set_thresholds

NAMES = ("alpha", "beta", "gamma")


def views(rows: int, truth: np.ndarray | None, seed: int, sure: float = 6.0) -> Views:
    """Scores that favour the truth by so much, in every view; far below zero where there is none."""
    random = np.random.default_rng(seed)
    found = []
    for scale in (1.0, 1.5, 0.2):
        scores = random.normal(0, 4 * scale, (rows, len(NAMES)))
        if truth is None:
            scores -= 8 * scale
        else:
            scores[np.arange(rows), truth] += sure * scale
        found.append(scores)
    return Views(*found)


def held_out(rows: int, seed: int, sure: float = 6.0, own: int = 0) -> HeldOut:
    truth = np.random.default_rng(seed).integers(0, len(NAMES), rows)
    few = min(rows, 50)
    ways = np.zeros(few, np.int32)
    before = views(few, truth[:few], seed + 1)
    return HeldOut(
        views(rows, truth, seed + 2, sure),
        truth,
        np.ones(rows, bool),
        views(200, None, seed + 3),
        views(own, None, seed + 4),
        Changed(before, before, ways, truth[:few]),
    )


@pytest.mark.parametrize("budget", [0.01, 0.02, 0.05, 0.1])
def test_rows_that_nobody_saw_keep_the_budget(budget: float) -> None:
    held, fresh = held_out(4000, 1), held_out(20_000, 100)
    scale = calibrate(held)
    thresholds = set_thresholds(held, scale, NAMES, Budget(budget))
    rows = Judged.of(scale.fused(fresh.views), scale, fresh.truth)
    routed = rows.routed(thresholds, NAMES)
    wrong = int((routed & ~rows.right).sum())
    assert thresholds.kept
    assert routed.mean() > 0.05
    assert binomtest(wrong, int(routed.sum())).proportion_ci(0.99).low <= budget


def test_a_larger_budget_routes_more_and_a_stricter_task_less() -> None:
    held = held_out(4000, 1)
    scale = calibrate(held)

    def coverage(budget: Budget) -> dict[str, float]:
        thresholds = set_thresholds(held, scale, NAMES, budget)
        assert set(thresholds.tasks) == set(budget.tasks)
        found = fares(held, scale, NAMES, thresholds, budget)
        return {name: found[name].coverage for name in NAMES} | {
            "all": figures(held, scale, NAMES, thresholds, budget)["cv_coverage"]
        }

    lax, strict, one = coverage(Budget(0.1)), coverage(Budget(0.02)), coverage(Budget(0.1, {"beta": 0.01}))
    assert strict["all"] < lax["all"]
    assert one["beta"] < lax["beta"]
    assert one["alpha"] >= lax["alpha"] - 0.05


def test_a_stricter_task_of_which_nothing_is_shown_says_so_and_still_routes() -> None:
    held = held_out(400, 1, sure=12.0)
    scale = calibrate(held)
    budget = Budget(0.1, {"beta": 0.0001})
    thresholds = set_thresholds(held, scale, NAMES, budget)
    assert thresholds.kept
    assert thresholds.unshown == ("beta",)
    assert not thresholds.shows("beta")
    assert thresholds.shows("beta") is False
    assert thresholds.shows("alpha") is None
    assert "beta" in thresholds.origin
    found = fares(held, scale, NAMES, thresholds, budget)
    assert (found["alpha"].shown, found["beta"].shown) == (None, False)
    assert found["beta"].coverage > 0.2
    assert found["beta"].least >= thresholds.probability
    assert figures(held, scale, NAMES, thresholds, budget)["budget_kept"] == 0.0


def test_a_stricter_task_answers_for_the_jobs_of_nobody_that_come_to_it() -> None:
    """Ten tasks that are always right, and a tenth of the background goes to the first of them."""
    names = [f"t{n}" for n in range(10)]
    random = np.random.default_rng(0)
    near = np.arange(400) < 40

    def column_of(columns: np.ndarray) -> np.ndarray:
        scores = np.full((len(columns), 10), -60.0)
        scores[np.arange(len(columns)), columns] = 60.0 + random.normal(0, 1, len(columns))
        return scores

    truth = np.repeat(np.arange(10), 600)
    own = column_of(truth)
    strange = column_of(np.zeros(400, np.int64)) - np.where(near, 0.0, 500.0)[:, None]
    none = np.empty((0, 10))

    def views(scores: np.ndarray) -> Views:
        return Views(scores, np.zeros_like(scores), np.zeros_like(scores))

    held = HeldOut(
        views(own), truth, np.ones(len(truth), bool), views(strange), views(none),
        Changed(views(none), views(none), np.empty(0, np.int32), np.empty(0, np.int64)),
    )  # fmt: skip
    scale = Scale(temperature=1.0, means=1.0, states=0.0, letters=0.0)
    thresholds = set_thresholds(held, scale, names, Budget(0.05, {"t0": 0.01, "t1": 0.01}))
    assert thresholds.kept
    assert thresholds.shows("t0") is False  # 40 of 400 strangers: five in a hundred of its jobs
    assert thresholds.shows("t1") is True


BUDGETS = (0.1, 0.05, 0.03, 0.02, 0.015, 0.01, 0.006, 0.003, 0.001, 0.0001)


@pytest.mark.parametrize(
    ("rows", "seed", "sure"), [(4000, 1, 6.0), (400, 2, 6.0), (150, 3, 12.0), (40, 4, 4.0)]
)
def test_a_smaller_budget_never_routes_more_whether_it_can_be_shown_or_not(
    rows: int, seed: int, sure: float
) -> None:
    held = held_out(rows, seed, sure)
    scale = calibrate(held)
    found = [set_thresholds(held, scale, NAMES, Budget(budget)) for budget in BUDGETS]
    assert not found[-1].kept
    coverage = [figures(held, scale, NAMES, each, Budget())["cv_coverage"] for each in found]
    for larger, smaller in pairwise(coverage):
        assert smaller <= larger + EQUAL
    own = [
        set_thresholds(held, scale, NAMES, Budget(0.2, {"beta": budget})).least("beta") for budget in BUDGETS
    ]
    assert own == sorted(own)


def test_the_fleets_budget_holds_beside_a_stricter_task_that_routes_less() -> None:
    """The second task's jobs are right, mostly at .8; the first one's are wrong more often."""
    random = np.random.default_rng(0)
    rows, truths = [], []
    for column, truth, count, chance in (
        (0, 0, 960, 0.96), (0, 1, 62, 0.96), (1, 1, 1500, 0.8), (1, 0, 12, 0.8), (1, 1, 600, 0.985),
    ):  # fmt: skip
        chances = chance + random.uniform(-0.004, 0.004, count)
        best = 50 + random.normal(0, 1, count)
        scores = np.stack([best, best - 2 * np.log(chances / (1 - chances))], axis=1)
        rows.append(scores if column == 0 else scores[:, ::-1])
        truths.append(np.full(count, truth))
    empty = Views(*(np.empty((0, 2)) for _ in range(3)))
    scores, truth = np.concatenate(rows), np.concatenate(truths)
    held = HeldOut(
        Views(scores, np.zeros_like(scores), np.zeros_like(scores)), truth, np.ones(len(truth), bool),
        empty, empty, Changed(empty, empty, np.empty(0, np.int32), np.empty(0, np.int64)),
    )  # fmt: skip
    scale, names = Scale(temperature=1.0, means=1.0, states=0.0, letters=0.0), ("alpha", "beta")
    alone, beside = Budget(0.03, out_of_scope=0.0), Budget(0.03, {"beta": 0.01}, out_of_scope=0.0)
    assert set_thresholds(held, scale, names, alone).kept
    thresholds = set_thresholds(held, scale, names, beside)
    found = figures(held, scale, names, thresholds, beside)
    assert thresholds.kept
    assert found["budget_kept"] == 1.0
    assert found["cv_misroute"] <= 0.03
    assert thresholds.probability > set_thresholds(held, scale, names, alone).probability


@pytest.mark.parametrize(("lost", "refused"), [(0.005, 0.05), (0.03, 0.1)])
def test_of_equal_coverages_the_one_that_refuses_fewest_is_taken(lost: float, refused: float) -> None:
    """A twentieth of the rows is wrong, told by fit, or by probability at the cost of ``lost``."""
    count = 4000
    fit = np.linspace(10, 20, count)
    places = np.arange(count) / count
    wrong = (places >= 0.05) & (places < 0.1)
    unsure = wrong | (places >= 1 - lost)
    scores = np.stack([fit, fit - np.where(unsure, 2.0, 20.0)], axis=1)
    empty = Views(*(np.empty((0, 2)) for _ in range(3)))
    held = HeldOut(
        Views(scores, np.zeros_like(scores), np.zeros_like(scores)), wrong.astype(np.int64),
        np.ones(count, bool), empty, empty,
        Changed(empty, empty, np.empty(0, np.int32), np.empty(0, np.int64)),
    )  # fmt: skip
    scale = Scale(temperature=1.0, means=1.0, states=0.0, letters=0.0)
    thresholds = set_thresholds(held, scale, ("a", "b"), Budget(0.02, out_of_scope=0.0))
    assert thresholds.kept
    assert float((fit < thresholds.fit).mean()) == pytest.approx(refused, abs=0.001)


def test_without_a_held_out_row_a_stricter_task_is_sure_and_not_shown() -> None:
    empty = Views(*(np.empty((0, 3)) for _ in range(3)))
    none = HeldOut(
        empty, np.empty(0, np.int64), np.empty(0, bool), empty, empty,
        Changed(empty, empty, np.empty(0, np.int32), np.empty(0, np.int64)),
    )  # fmt: skip
    thresholds = set_thresholds(none, Scale(), NAMES, Budget(0.05, {"beta": 0.01}))
    assert thresholds.least("beta") > thresholds.least("alpha")
    assert thresholds.unshown == ("beta",)


def test_the_more_jobs_fit_no_task_the_fewer_are_routed() -> None:
    held = held_out(4000, 1)
    scale = calibrate(held)

    def coverage(out_of_scope: float) -> float:
        budget = Budget(0.02, out_of_scope=out_of_scope)
        thresholds = set_thresholds(held, scale, NAMES, budget)
        assert f"{out_of_scope:.0%} of jobs" in thresholds.origin
        return figures(held, scale, NAMES, thresholds, budget)["cv_coverage"]

    assert coverage(0.0) >= coverage(0.1) > coverage(0.5) > 0


def test_a_fleets_own_jobs_of_nobody_are_kept_away_too() -> None:
    held, without = held_out(4000, 1, own=100), held_out(4000, 1)
    scale = calibrate(held)
    near = replace(held, own=views(100, np.zeros(100, np.int64), 7, sure=5.0))

    def found(rows: HeldOut) -> dict[str, float]:
        return figures(rows, scale, NAMES, set_thresholds(rows, scale, NAMES, Budget(0.03)), Budget(0.03))

    assert "foreign_routed" not in found(without)
    far, close = found(held), found(near)
    assert far["foreign_abstained"] > 0.9
    assert close["cv_coverage"] < far["cv_coverage"]


def test_a_few_jobs_of_nobody_that_fit_nothing_cost_no_coverage() -> None:
    few, without = held_out(4000, 1, own=2), held_out(4000, 1)
    few.own.means[:] = few.own.states[:] = few.own.letters[:] = -500.0
    scale = calibrate(without)
    for budget in (Budget(0.02), Budget(0.05)):
        told, untold = (set_thresholds(held, scale, NAMES, budget) for held in (few, without))
        assert told.kept
        assert untold.kept
        assert told.probability <= untold.probability


@pytest.mark.parametrize("wrong", [{"max_misroute": 0.0}, {"tasks": {"a": 1.5}}, {"out_of_scope": 1.0}])
def test_a_budget_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a share of"):
        Budget(**wrong)


def test_too_few_rows_promise_nothing_and_say_so() -> None:
    held = held_out(20, 5)
    thresholds = set_thresholds(held, calibrate(held), NAMES, Budget(0.01))
    assert not thresholds.kept
    assert "too few" in thresholds.origin
    none = HeldOut(
        Views(*(np.empty((0, 3)) for _ in range(3))),
        np.empty(0, np.int64),
        np.empty(0, bool),
        views(5, None, 1),
        views(0, None, 1),
        Changed(views(0, None, 1), views(0, None, 1), np.empty(0, np.int32), np.empty(0, np.int64)),
    )
    assert not set_thresholds(none, calibrate(none), NAMES, Budget()).kept


def test_a_view_that_says_nothing_gets_no_weight_and_chances_are_calibrated() -> None:
    held = held_out(4000, 1)
    noise = np.random.default_rng(9).normal(0, 5, held.views.letters.shape)
    scale = calibrate(HeldOut(
        Views(held.views.means, held.views.states, noise),
        held.truth, held.inputs, held.background, held.own, held.changed,
    ))  # fmt: skip
    assert scale.means + scale.states == pytest.approx(1)
    assert scale.letters < 0.1
    fresh = held_out(20_000, 100)
    scale = calibrate(held)
    rows = Judged.of(scale.fused(fresh.views), scale, fresh.truth)
    assert calibration_error(rows.top, rows.right) < 0.02
    assert calibration_error(np.full(100, 0.9), np.zeros(100, bool)) == pytest.approx(0.9)


def test_flips_are_counted_by_way_and_astray_only_where_a_wrong_task_answers() -> None:
    scale = Scale(temperature=1.0, means=1.0, states=0.0, letters=0.0)
    held = held_out(2000, 3, sure=20.0)
    thresholds = set_thresholds(held, scale, NAMES, Budget(0.05))
    sure = np.full((4, 3), -50.0)
    sure[:, 0] = 60.0
    other, nowhere = sure[:, [1, 0, 2]], np.full((4, 3), -500.0)
    mixed = np.stack([sure[0], other[0], nowhere[0], sure[0]])
    blank = np.zeros((4, 3))
    ways = np.array([0, 0, 1, 1], np.int32)
    truth = np.zeros(4, np.int64)
    changed = Changed(Views(sure, blank, blank), Views(mixed, blank, blank), ways, truth)
    found = flips(changed, scale, NAMES, thresholds)
    first, second = (WAYS[n].replace(" ", "_") for n in (0, 1))
    assert (found[f"flip_{first}"], found[f"astray_{first}"]) == (0.5, 0.5)
    assert (found[f"flip_{second}"], found[f"astray_{second}"]) == (0.5, 0.0)
    assert (found["flip_rate"], found["astray_rate"]) == (0.5, 0.25)


def test_the_policy_names_what_a_router_does_not_withstand() -> None:
    assert Policy().router.faults({"flip_rate": 1.0, "astray_rate": 1.0, "attack_success": 1.0}) == []
    gate = RouterGate(max_flip_rate=0.25, max_astray_rate=0.03, max_attack_success=0.05)
    assert gate.faults({"flip_rate": 0.1, "astray_rate": 0.0, "attack_success": 0.0}) == []
    assert gate.faults({}) == []
    (fault,) = gate.faults({"flip_rate": 0.9})
    assert "router.max_flip_rate" in fault
    assert "0.900" in fault
