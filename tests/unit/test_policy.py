from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.errors import ManifestError
from fleet.registry.policy import (
    AutoPromote,
    Case,
    Evidence,
    Gate,
    Policy,
    compare,
    decide,
    decide_all,
    load_policy,
)

ROWS = "rows-a"


def evidence(name: str, scores: list[float], *, value: float | None = None, rows: str = ROWS) -> Evidence:
    mean = sum(scores) / len(scores) if scores else 0.0
    return Evidence(name, mean if value is None else value, tuple(scores), rows)


def right(count: int, of: int = 80) -> list[float]:
    return [1.0] * count + [0.0] * (of - count)


def case(
    candidate: list[float], champion: list[float] | None = None, *, metric: str = "accuracy", **others: object
) -> Case:
    return Case(
        "sentiment",
        metric,
        evidence("version 2", candidate),
        None if champion is None else evidence("version 1", champion),
        **others,  # type: ignore[arg-type]
    )


class TestFirstVersion:
    def test_becomes_champion_over_floor_and_baseline(self) -> None:
        verdict = decide(case(right(70), floor=0.8, baseline=evidence("baseline", right(60))), Policy())
        assert verdict.promote
        assert str(verdict) == (
            "promoted: accuracy 0.875 meets the floor 0.800; accuracy 0.875 beats the baseline's 0.750; "
            "first version, there is no champion yet"
        )

    def test_below_the_floor_is_held(self) -> None:
        verdict = decide(case(right(60), floor=0.8), Policy())
        assert (verdict.promote, verdict.passed) == (False, False)
        assert verdict.reasons == ("accuracy 0.750 misses the floor 0.800",)

    def test_every_failed_check_is_named(self) -> None:
        baseline = evidence("baseline", right(60))
        verdict = decide(case(right(60), floor=0.8, baseline=baseline), Policy())
        assert len(verdict.reasons) == 2
        assert "does not beat" in verdict.reasons[1]

    def test_the_policy_may_leave_it_to_a_person(self) -> None:
        verdict = decide(case(right(70)), Policy(auto_promote=AutoPromote(first="hold")))
        assert (verdict.promote, verdict.passed, verdict.word) == (False, True, "passed")
        assert "fleet promote" in verdict.reasons[-1]

    def test_floor_and_baseline_bind_only_when_asked(self) -> None:
        gate = Gate(require_floor=False, must_beat_baseline=False)
        weak = case(right(10), floor=0.8, baseline=evidence("baseline", right(60)))
        assert decide(weak, Policy(gate=gate)).promote

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_figure_that_is_no_number_never_passes(self, value: float) -> None:
        broken = Case("t", "perplexity", evidence("version 1", right(3), value=value))
        assert not decide(broken, Policy()).promote

    def test_no_rows_never_pass(self) -> None:
        assert not decide(case([]), Policy()).promote


class TestAgainstTheChampion:
    def test_mcnemar_counts_only_rows_that_differ(self) -> None:
        seen = compare(right(75), right(65))
        assert seen.binary
        assert (seen.wins, seen.losses) == (10, 0)
        assert seen.p == pytest.approx(0.5**10)
        assert seen.effect == pytest.approx(10 / 80)

    def test_clearly_better_is_promoted_with_its_figures(self) -> None:
        verdict = decide(case(right(75), right(65)), Policy())
        assert verdict.promote
        assert verdict.figures["effect"] == pytest.approx(0.125)
        assert "better on 10 and worse on 0 of 80 rows than version 1, p = 0.001" in str(verdict)
        assert verdict.tags()["verdict"] == "promoted"
        assert float(verdict.tags()["verdict.p"]) == pytest.approx(0.5**10, rel=1e-4)

    def test_luck_is_held(self) -> None:
        verdict = decide(case(right(68), right(66)), Policy())
        assert not verdict.promote
        assert any("p = 0.250" in reason for reason in verdict.reasons)

    def test_a_significant_trifle_is_held(self) -> None:
        verdict = decide(case(right(960, 1000), right(940, 1000)), Policy())
        assert not verdict.promote
        assert verdict.reasons == (verdict.reasons[0],)
        assert "improvement +0.020" in verdict.reasons[0]

    def test_better_rows_but_a_worse_metric_is_held(self) -> None:
        judged = Case(
            "t",
            "macro_f1",
            evidence("version 2", right(75), value=0.70),
            evidence("version 1", right(65), value=0.72),
        )
        verdict = decide(judged, Policy())
        assert not verdict.promote
        assert "macro_f1 0.700 against version 1's 0.720" in verdict.reasons

    def test_other_rows_cannot_be_compared(self) -> None:
        champion = evidence("version 1", right(10), rows="rows-b")
        judged = Case("t", "accuracy", evidence("version 2", right(79)), champion)
        verdict = decide(judged, Policy())
        assert not verdict.promote
        assert "other evaluation rows" in str(verdict)

    def test_a_champion_that_cannot_be_evaluated_holds_its_place(self) -> None:
        verdict = decide(case(right(79), []), Policy())
        assert not verdict.promote
        assert "could not be evaluated" in str(verdict)

    def test_unequal_counts_of_rows_are_a_reason_not_a_crash(self) -> None:
        assert "equally many rows" in str(decide(case(right(70, 80), right(70, 81)), Policy()))


class TestContinuousScores:
    def test_shares_use_a_permutation_test(self) -> None:
        source = random.Random(1)
        old = [source.random() * 0.8 for _ in range(60)]
        new = [score + 0.05 + source.random() * 0.1 for score in old]
        seen = compare(new, old)
        assert not seen.binary
        assert seen.p < 0.001
        assert seen.low < seen.effect < seen.high

    def test_lower_perplexity_wins(self) -> None:
        old = [3.0 + row / 40 for row in range(40)]
        new = [nats - 0.2 - 0.01 * (row % 3) for row, nats in enumerate(old)]
        judged = Case(
            "story",
            "perplexity",
            evidence("version 2", new, value=25.0),
            evidence("version 1", old, value=31.0),
            floor=30.0,
        )
        verdict = decide(judged, Policy())
        assert verdict.promote
        assert verdict.figures["effect"] == pytest.approx(0.19, abs=0.01)
        assert "meets the ceiling 30.000" in verdict.reasons[0]

    def test_higher_perplexity_never_wins(self) -> None:
        old = [3.0] * 40
        judged = Case(
            "story",
            "perplexity",
            evidence("version 2", [3.5] * 40, value=33.0),
            evidence("version 1", old, value=20.0),
        )
        assert not decide(judged, Policy()).promote

    @pytest.mark.parametrize("scores", [[float("nan"), 1.0], [float("inf"), 1.0], []])
    def test_scores_that_are_no_numbers_are_refused(self, scores: list[float]) -> None:
        with pytest.raises(ValueError, match=r"finite|equally many"):
            compare(scores, [1.0] * len(scores))


class TestFalseDiscoveries:
    def test_many_borderline_tasks_are_judged_harder_than_one(self) -> None:
        border = case(right(75), right(70))  # 5 against 0: p = 0.031
        policy = Policy(gate=Gate(false_discovery_rate=0.05))
        assert decide(border, policy).promote
        equal = [case(right(70), right(70)) for _ in range(9)]
        together = decide_all([border, *equal], policy)[0]
        assert not together.promote
        assert "among 10 tasks judged together the adjusted p = 0.312" in str(together)

    def test_first_versions_do_not_count_as_tests(self) -> None:
        border = case(right(75), right(70))
        policy = Policy(gate=Gate(false_discovery_rate=0.05))
        assert decide_all([border, *[case(right(70)) for _ in range(9)]], policy)[0].promote

    def test_equal_experts_are_not_promoted_by_luck(self) -> None:
        source = random.Random(7)

        def draw() -> list[float]:
            return [float(source.random() < 0.8) for _ in range(80)]

        verdicts = decide_all([case(draw(), draw()) for _ in range(100)], Policy())
        assert sum(verdict.promote for verdict in verdicts) <= 1


scores = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=40
)


@given(scores)
@settings(max_examples=60, deadline=None)
def test_swapping_the_contenders_turns_the_comparison_round(pairs: list[tuple[float, float]]) -> None:
    new, old = [a for a, _ in pairs], [b for _, b in pairs]
    one, other = compare(new, old), compare(old, new)
    assert one.effect == pytest.approx(-other.effect)
    assert (one.wins, one.losses) == (other.losses, other.wins)
    assert 0 < one.p <= 1
    assert one.low <= one.effect + 1e-12
    assert one.effect <= one.high + 1e-12


@given(scores)
@settings(max_examples=40, deadline=None)
def test_what_is_promoted_over_a_champion_is_better_than_it(pairs: list[tuple[float, float]]) -> None:
    new, old = [a for a, _ in pairs], [b for _, b in pairs]
    verdict = decide(case(new, old), Policy())
    assert verdict == decide(case(new, old), Policy())
    assert verdict.reasons
    if verdict.promote:
        assert sum(new) > sum(old)
        assert verdict.figures["p"] <= 0.05


class TestPolicyFile:
    def test_the_shipped_policy_is_the_default_one(self) -> None:
        shipped = Path(__file__).parents[2] / "registry" / "policy.yaml"
        assert shipped.is_file()
        assert load_policy(shipped).model_dump() == Policy().model_dump()

    def test_no_file_is_the_default(self, tmp_path: Path) -> None:
        assert load_policy(tmp_path / "policy.yaml") == Policy()

    def test_all_faults_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.yaml"
        path.write_text("gate: {alpha: 2, min_efect: 0.1}\nretention: {keep: 0}\n")
        with pytest.raises(ManifestError) as caught:
            load_policy(path)
        assert {fault.field for fault in caught.value.faults} == {
            "gate.alpha",
            "gate.min_efect",
            "retention.keep",
        }

    def test_broken_yaml_names_the_line(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.yaml"
        path.write_text("gate:\n  alpha: [\n")
        with pytest.raises(ManifestError, match=r"policy\.yaml:\d"):
            load_policy(path)
