"""Whether a router abstains as often as its fit expects, from counts alone. Knows no clock and keeps nothing.

The alarm is a CUSUM of likelihood ratios that bets on every share beyond the fitted range at once (the
mixture of Robbins 1970; as an e-detector Shin, Ramdas and Rinaldo 2022, arXiv:2203.03532). It may be looked
at after every job: while the true share is in the range, at least ``PATIENCE`` stretches pass on average
until a false alarm, whatever the traffic. It is a function of the last day's counts, so whoever has those
has the alarm too, however often processes begin anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincc, betaln, xlog1py, xlogy
from scipy.stats import binomtest

from fleet.routing.tally import KEPT, STRETCH_SECONDS, Stretch

__all__ = ["Alarm", "Expected", "ShiftState", "Side", "alarms", "expected_abstentions", "shift_state"]

Side = Literal["above", "below"]
Doubles = NDArray[np.float64]

CONFIDENCE = 0.95
"""Of the fitted range."""
PATIENCE = 10_000
"""Stretches with jobs until a false alarm, on average and at least: 35 days of traffic without a pause."""
WINDOWS = (1, 2, 3, 6, 12, 24, 48, 96, 144, KEPT)
"""Where a change may have begun, in stretches back from the one that is looked at."""
HOUR = 3600 // STRETCH_SECONDS
ENOUGH = 50
"""Jobs on which an alarm may end; where an hour has fewer, more than an hour is looked at."""


@dataclass(frozen=True, slots=True)
class ShiftState:
    """What the router has decided in the last hour, and whether that is what its fit expects."""

    router_version: int
    jobs: int
    """That the router decided in the last hour; those that name their task are not among them."""
    abstained: int
    clarified: int
    compound: int
    """That need several tasks."""
    share: float | None
    """Of abstentions; None without a job."""
    clarified_share: float | None
    compound_share: float | None
    expected: float | None
    """Share of abstentions that the fit expects; None if it measured none, and then there is no alarm."""
    low: float | None
    """The range that the fit leaves for it."""
    high: float | None
    alarm: Side | None
    """Where the share has gone to."""
    since: float | None
    """Unix seconds: when that began, as far back as a day."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a fit expects of the share of abstentions."""

    share: float
    low: float
    """The range that it leaves for the true share."""
    high: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """Abstentions that left the range, by the places of stretches."""

    side: Side
    begun: int
    """Where the change began, as far as the counts tell."""
    raised: int
    """Where that became certain enough."""
    ended: int | None
    """The first after which the share was back; None while it is not."""


def expected_abstentions(metrics: Mapping[str, float]) -> Expected | None:
    """What a router's fit expects, from its metrics; None where it measured nothing.

    In a traffic of which the share ``out_of_scope`` fits no task; the range reaches from none to twice as
    many, and leaves room for how few held-out rows there were (Clopper and Pearson 1934).
    """
    own, rows = metrics.get("cv_abstained", math.nan), metrics.get("cv_rows", 0.0)
    if not (0 <= own <= 1 and rows >= 1):
        return None
    found = binomtest(round(own * int(rows)), int(rows)).proportion_ci(CONFIDENCE, method="exact")
    kinds = [f"{kind}_abstained" for kind in ("background", "loto", "foreign")]
    strange = [metrics[kind] for kind in kinds if kind in metrics]
    beyond = sum(strange) / len(strange) if strange else 1.0
    foreign = metrics.get("out_of_scope", 0.0)

    def among(own: float, foreign: float) -> float:
        return (1 - foreign) * own + foreign * beyond

    none, twice = 0.0, min(1.0, 2 * foreign)
    return Expected(
        among(own, foreign),
        min(among(float(found.low), share) for share in (none, twice)),
        max(among(float(found.high), share) for share in (none, twice)),
    )


def shift_state(
    router_version: int, stretches: Iterable[Stretch], expected: Expected | None, now: float
) -> ShiftState:
    """``stretches`` of all processes, in any order; those of the same time add up."""
    counts = _day(stretches, now)
    jobs, abstained, clarified, compound = (int(count) for count in counts[:, -HOUR:].sum(axis=1))
    raised: list[Alarm] = []
    if expected is not None:
        raised = alarms(counts[0], counts[1], expected.low, expected.high)
    on = raised[-1] if raised and raised[-1].ended is None else None
    first = int(now // STRETCH_SECONDS) - KEPT + 1
    return ShiftState(
        router_version,
        jobs,
        abstained,
        clarified,
        compound,
        share=_share(abstained, jobs),
        clarified_share=_share(clarified, jobs),
        compound_share=_share(compound, jobs),
        expected=None if expected is None else round(expected.share, 4),
        low=None if expected is None else round(expected.low, 4),
        high=None if expected is None else round(expected.high, 4),
        alarm=None if on is None else on.side,
        since=None if on is None else float((first + on.begun) * STRETCH_SECONDS),
    )


def _day(stretches: Iterable[Stretch], now: float) -> Doubles:
    """``[4, KEPT]``: jobs, abstentions, clarifications, compound jobs; the last column is the stretch of
    ``now``."""
    counts = np.zeros((4, KEPT))
    last = int(now // STRETCH_SECONDS)
    for stretch in stretches:
        # What another machine's clock dates a little later is of now.
        place = KEPT - 1 - max(0, last - stretch.number)
        if place >= 0:
            counts[:, place] += stretch[1:]
    return counts


def alarms(jobs: Doubles, abstained: Doubles, low: float, high: float) -> list[Alarm]:
    """Every alarm of consecutive stretches ``[n]``, in order; only the last one may still be on."""
    all_jobs, all_abstained = np.cumsum([0.0, *jobs]), np.cumsum([0.0, *abstained])
    ends = np.arange(1, len(jobs) + 1)[:, None]
    begins = np.maximum(ends - np.array(WINDOWS), 0)
    within, of_them = all_jobs[ends] - all_jobs[begins], all_abstained[ends] - all_abstained[begins]
    bets: dict[Side, Doubles] = {
        "above": _log_bet(of_them, within, high),
        "below": _log_bet(within - of_them, within, 1 - low),
    }
    bar = math.log(2 * PATIENCE)  # two sides share the patience
    suspect = np.flatnonzero(np.maximum(bets["above"], bets["below"]).max(axis=1) >= bar)
    found: list[Alarm] = []
    free = 0
    for place in suspect:
        # What an earlier alarm was about is over and starts no other.
        fresh = (begins[place] >= free) & (place >= free)
        for side, bet in bets.items():
            best = int(np.where(fresh, bet[place], -np.inf).argmax())
            if not fresh.any() or bet[place, best] < bar:
                continue
            begun = _first_job(jobs, int(begins[place, best]))
            ended = next(
                (
                    end
                    for end in range(place + 2, len(jobs) + 1)
                    if _is_back(side, all_jobs, all_abstained, (begun, end), (low, high))
                ),
                None,
            )
            found.append(Alarm(side, begun, int(place), ended))
            if ended is None:
                return found
            free = ended
            break
    return found


def _first_job(jobs: Doubles, begin: int) -> int:
    return begin + int(np.flatnonzero(jobs[begin:])[0])


def _is_back(
    side: Side, jobs: Doubles, abstained: Doubles, span: tuple[int, int], bounds: tuple[float, float]
) -> bool:
    """Whether the last hour of an alarm, or what has jobs enough, is in the range; so is one without jobs."""
    begun, end = span
    if jobs[end] == jobs[max(0, end - HOUR)]:
        return True
    enough = int(np.searchsorted(jobs, jobs[end] - ENOUGH, "right")) - 1
    begin = max(begun, min(end - HOUR, enough))
    share = (abstained[end] - abstained[begin]) / (jobs[end] - jobs[begin])
    return bool(share <= bounds[1] if side == "above" else share >= bounds[0])


def _log_bet(hits: Doubles, trials: Doubles, bound: float) -> Doubles:
    """Log of how much likelier ``hits`` are under a share drawn evenly above ``bound`` than under ``bound``.

    Under any share up to ``bound`` the ratio is 1 on average at most, whenever one looks.
    """
    if bound >= 1:
        return np.full(hits.shape, -np.inf)
    misses = trials - hits
    with np.errstate(divide="ignore"):  # nothing at all above the bound: no bet is lost more surely
        beyond = np.log(betaincc(hits + 1, misses + 1, bound)) - math.log(1 - bound)
    made: Doubles = betaln(hits + 1, misses + 1) + beyond - xlogy(hits, bound) - xlog1py(misses, -bound)
    return made


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
