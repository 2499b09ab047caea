"""How figures become a decision, and what of it somebody may see who may not ask every task."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.routing.budget import Thresholds
from fleet.routing.decision import Decision, judge


def test_who_may_ask_some_tasks_hears_of_no_other() -> None:
    thresholds = Thresholds(5.0, 0.5, {}, 0.1, "test", kept=True)
    causes = ("no_fit", "too_short", "too_long", "language")
    for cause in causes:
        words = "the language looks like fr, tasks know secretish; "
        made = judge(
            ("secret", 0.7), False, [("mine", 0.3)], 1.0, thresholds, 5, lambda c=cause, w=words: (c, w)
        )
        assert "secret" in made.reason
        seen = made.within({"mine"})
        assert seen is not None
        assert "secret" not in str(seen)
        assert seen.cause == cause
        assert seen.reason.startswith("no expert fits")


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.floats(-9, 9), st.floats(0.5, 1))
def test_a_judgement_is_always_one_of_three_with_its_figures(
    weights: list[float], fit: float, least: float
) -> None:
    total = sum(weights)
    ranked = [(f"t{n}", w / total) for n, w in enumerate(sorted(weights, reverse=True))]
    thresholds = Thresholds(0.0, least, {}, 0.2, "test", kept=True)
    decision = judge(ranked[0], True, ranked, fit, thresholds, 3, lambda: ("no_fit", ""))
    expected = "abstain" if fit < 0 else "clarify" if ranked[0][1] < least else "route"
    nobody = judge(ranked[0], False, ranked[1:], fit, thresholds, 3, lambda: ("no_fit", ""))
    assert (nobody.kind, nobody.cause) == ("abstain", "no_fit" if fit < 0 else "no_expert")
    assert decision.kind == expected
    assert (len(decision.tasks) == 1) == (expected == "route")
    if expected == "clarify":
        likely = sum(w / total >= 0.2 for w in weights)
        assert len(decision.tasks) == min(max(likely, 2), 5, len(ranked))
    assert (decision.cause is not None) == (expected == "abstain")
    assert len(decision.scores) <= 3
    assert decision.reason


def test_a_named_task_and_an_inconsistent_decision() -> None:
    assert Decision.forced("x").task == "x"
    with pytest.raises(ValueError, match="exactly when it routes"):
        Decision("route", None, (), 0.0, None, "")
