"""The watch over a router's abstentions: when it alarms, when it does not, and when it stops."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from fleet.routing.decision import Kind
from fleet.routing.shift import PATIENCE, Expected, ShiftState, alarms, expected_abstentions, shift_state
from fleet.routing.tally import KEPT, STRETCH_SECONDS, Decided, Stretch, Tally


def fitted(share: float, rows: float, **others: float) -> Expected:
    found = expected_abstentions({"cv_abstained": share, "cv_rows": rows, **others})
    assert found is not None
    return found


SHARE = 0.05
FITTED = fitted(SHARE, 1000)
LOW, HIGH = FITTED.low, FITTED.high
TODAY = 1_000_000
"""Number of the first stretch of a day."""


def traffic(jobs: int, shares: Iterable[float], seed: int = 0) -> tuple[NDArray[np.float64], ...]:
    """Stretches of so many jobs with these true shares of abstentions."""
    drawn = np.random.default_rng(seed).binomial(jobs, np.array(list(shares)))
    return np.full(len(drawn), float(jobs)), drawn.astype(float)


def seen(jobs: int, shares: Iterable[float], *, until: int | None = None, seed: int = 0) -> ShiftState:
    """What is shown of that in the last of these stretches."""
    counts = zip(*traffic(jobs, shares, seed), strict=True)
    stretches = [Stretch(TODAY + n, int(all_), int(not_), 0) for n, (all_, not_) in enumerate(counts)][:until]
    now = (stretches[-1].number + 0.5) * STRETCH_SECONDS
    return shift_state(3, stretches, FITTED, now)


@pytest.mark.parametrize("jobs", [2, 20, 200])
@pytest.mark.parametrize("share", [SHARE, HIGH, LOW])
def test_in_a_month_within_the_fitted_range_there_is_no_alarm(jobs: int, share: float) -> None:
    # Up to 1.7 million jobs; the bound allows one false alarm in PATIENCE stretches at the range's edges.
    month = 30 * KEPT
    assert month < PATIENCE
    assert alarms(*traffic(jobs, [share] * month), LOW, HIGH) == []


def test_a_tenth_of_the_patience_has_ten_times_the_alarms_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.routing.shift.PATIENCE", 100)
    stretches = 30 * KEPT
    found = alarms(*traffic(20, [HIGH] * stretches), LOW, HIGH)
    assert 0 < len(found) <= stretches / 100


@pytest.mark.parametrize(("share", "within"), [(2 * SHARE, 3500), (4 * SHARE, 300), (1.0, 20)])
def test_a_change_is_seen_within_so_many_jobs(share: float, within: int) -> None:
    jobs, quiet = 20, 50
    delays = []
    for seed in range(40):
        found = alarms(*traffic(jobs, [SHARE] * quiet + [share] * 300, seed), LOW, HIGH)
        assert {alarm.side for alarm in found} == {"above"}
        assert found[0].raised >= quiet
        delays.append((found[0].raised - quiet + 1) * jobs)
    assert np.quantile(delays, 0.95) <= within


def test_too_few_abstentions_alarm_too() -> None:
    now = seen(500, [SHARE] * 20 + [0.0] * 20)
    assert (now.alarm, now.share) == ("below", 0.0)


def test_an_alarm_says_since_when_and_ends_when_the_share_is_back() -> None:
    day = [SHARE] * 30 + [0.5] * 10 + [SHARE] * 40
    before, amid, after = (seen(40, day, until=until) for until in (30, 40, None))
    assert (before.alarm, before.since) == (None, None)
    assert amid.alarm == "above"
    assert amid.since is not None
    assert abs(amid.since / STRETCH_SECONDS - (TODAY + 30)) <= 2
    assert amid.share is not None
    assert amid.high is not None
    assert amid.share > amid.high
    assert (after.alarm, after.since) == (None, None)
    (alarm,) = alarms(*traffic(40, day), LOW, HIGH)
    # The burst has to leave the hour that the share is of.
    assert alarm.ended is not None
    assert 40 < alarm.ended <= 54


def test_an_alarm_that_lasts_a_day_is_still_on() -> None:
    assert seen(40, [SHARE] * 10 + [0.5] * 400).alarm == "above"


def test_an_hour_without_a_job_ends_an_alarm() -> None:
    stretches = [Stretch(TODAY, 50, 50, 0)]
    for later, alarm in ((0, "above"), (11, "above"), (12, None)):
        now = shift_state(1, stretches, FITTED, (TODAY + later) * STRETCH_SECONDS)
        assert now.alarm == alarm
    assert (now.jobs, now.share) == (0, None)


def test_a_few_quiet_jobs_do_not_end_an_alarm() -> None:
    stretches = [Stretch(TODAY, 200, 150, 0), Stretch(TODAY + 6, 2, 0, 0), Stretch(TODAY + 13, 2, 0, 0)]
    now = shift_state(1, stretches, FITTED, (TODAY + 13) * STRETCH_SECONDS)
    assert (now.jobs, now.share, now.alarm) == (4, 0.0, "above")


def test_counts_of_several_processes_add_up_in_any_order_and_old_ones_are_left_out() -> None:
    stretches = [
        Stretch(TODAY + 1, 10, 1, 2),
        Stretch(TODAY, 10, 0, 1),
        Stretch(TODAY + 1, 5, 1, 0),
        Stretch(TODAY + 2, 1, 1, 0),  # of a machine whose clock is ahead
        Stretch(TODAY - 13, 7, 7, 0),  # more than an hour ago
        Stretch(TODAY - KEPT, 100, 100, 0),
    ]
    now = shift_state(4, stretches, None, (TODAY + 1) * STRETCH_SECONDS)
    assert (now.router_version, now.jobs, now.abstained, now.clarified) == (4, 26, 3, 3)
    assert now.share == pytest.approx(3 / 26, abs=1e-4)


def test_without_a_measured_range_there_is_no_alarm() -> None:
    assert expected_abstentions({}) is None
    assert expected_abstentions({"cv_abstained": float("nan"), "cv_rows": 5.0}) is None
    now = shift_state(1, [Stretch(TODAY, 500, 500, 0)], None, TODAY * STRETCH_SECONDS)
    assert (now.share, now.expected, now.low, now.high, now.alarm) == (1.0, None, None, None, None)


def test_the_jobs_that_fit_no_task_are_expected_too() -> None:
    found = fitted(0.05, 1000, out_of_scope=0.1, background_abstained=1.0, loto_abstained=0.6)
    assert found.share == pytest.approx(0.9 * 0.05 + 0.1 * 0.8)
    assert found.low == LOW
    assert found.high == pytest.approx(0.8 * HIGH + 0.2 * 0.8)
    # A fleet whose traffic is what was reckoned with raises no alarm.
    month = 30 * KEPT
    assert alarms(*traffic(200, [found.share] * month), found.low, found.high) == []
    assert alarms(*traffic(200, [found.share] * month), LOW, HIGH)


@pytest.mark.parametrize(("share", "other"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_fit_that_expects_all_or_nothing_can_be_left_too(share: float, other: float) -> None:
    low, high = fitted(share, 100).low, fitted(share, 100).high
    assert 0 <= low < high <= 1
    assert alarms(*traffic(50, [share] * 20), low, high) == []
    assert len(alarms(*traffic(50, [other] * 20), low, high)) == 1


class Clock:
    def __init__(self) -> None:
        self.now = float(TODAY * STRETCH_SECONDS)

    def __call__(self) -> float:
        return self.now


def test_a_tally_counts_by_the_clock_and_holds_a_day() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    assert tally.decided() is None
    kinds: tuple[Kind, ...] = ("route", "abstain", "clarify", "abstain")
    for kind in kinds:
        tally.add(1, kind)
    clock.now += STRETCH_SECONDS
    tally.add(1, "route")
    clock.now -= 10 * STRETCH_SECONDS  # somebody sets it back
    tally.add(1, "route")
    assert tally.decided() == Decided(1, (Stretch(TODAY, 4, 2, 1), Stretch(TODAY + 1, 2, 0, 0)))
    clock.now += 20 * STRETCH_SECONDS
    for _ in range(2 * KEPT):
        tally.add(1, "route")
        clock.now += STRETCH_SECONDS
    decided = tally.decided()
    assert decided is not None
    assert len(decided.stretches) == KEPT


def test_another_router_begins_anew() -> None:
    tally = Tally(clock=Clock())
    tally.add(1, "abstain")
    tally.add(2, "route")
    assert tally.decided() == Decided(2, (Stretch(TODAY, 1, 0, 0),))
