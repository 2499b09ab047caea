"""Thresholds that keep a budget of misroutes, and what they cost in coverage. Knows no features.

A misroute is a job that is routed to a task which is not its own. The budget holds for the share of
misroutes among routed jobs, in a traffic of which some jobs fit no task. Among pairs of thresholds for
fit and probability the one is taken that routes most held-out jobs, to within ``EQUAL``, while the upper
confidence bound of the share keeps the budget: selective classification after Geifman and El-Yaniv 2017
(arXiv:1705.08500), but each candidate is bounded for itself, without their correction for having looked at
many. So the confidence is nominal: that of one candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from fleet.routing.calibrate import Scale
from fleet.routing.heldout import HeldOut

__all__ = ["DEFAULT_BUDGET", "OUT_OF_SCOPE", "Budget", "Judged", "Thresholds", "foreign", "set_thresholds"]

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]

DEFAULT_BUDGET = 0.05
OUT_OF_SCOPE = 0.05
CONFIDENCE = 0.9
"""Of the bounds, one-sided; intervals that are shown have 95 %."""
EVEN = 0.51
"""A task below this probability is never routed to: all others together are about as likely."""
REFUSALS = (0.05, 0.1, 0.15, 0.2, 0.3)
"""Shares of held-out jobs that the fit threshold may cost: the candidates. The least is spent whatever the
budget: a job that fits nothing should be told so, not asked back."""
EQUAL = 0.01
"""Coverages that differ by no more count as equal, about a standard error of a thousand rows; of equal ones
the pair that refuses fewest is taken."""
SURE = 0.9
"""Probability that is asked for where held-out rows show nothing."""
LEVELS = 200
"""Candidates for the probability."""
SET_MISSES = 0.1
"""How often the tasks that a question names may lack the right one."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Greatest share of misroutes among routed jobs."""

    max_misroute: float = DEFAULT_BUDGET
    tasks: Mapping[str, float] = field(default_factory=dict)
    """Of tasks that are stricter."""
    out_of_scope: float = OUT_OF_SCOPE
    """Share of jobs that fit no task, as is reckoned: in equal parts like the background, like other tasks
    and, where the fleet has any, like its own jobs of nobody."""

    def __post_init__(self) -> None:
        for share in (self.max_misroute, *self.tasks.values()):
            if not 0 < share <= 1:
                raise ValueError(f"a share of misroutes lies above 0 and not above 1, not at {share}")
        if not 0 <= self.out_of_scope < 1:
            raise ValueError(
                f"a share of foreign jobs lies below 1 and not below 0, not at {self.out_of_scope}"
            )

    def of(self, task: str) -> float:
        return min(self.max_misroute, self.tasks.get(task, 1.0))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a decision is measured against."""

    fit: float
    """Fit that the likeliest task must reach."""
    probability: float
    """Calibrated probability that it must reach,"""
    tasks: Mapping[str, float]
    """or this one, for tasks that have their own."""
    choice: float
    """Probability from which a question names a task (split conformal prediction; Sadinle et al. 2019)."""
    origin: str
    """Where the figures come from, in words."""
    kept: bool
    """Whether held-out rows show that the fleet's budget is kept."""
    unshown: tuple[str, ...] = ()
    """Tasks that are stricter, of which they do not show it."""

    def __post_init__(self) -> None:
        for name, chance in {"probability": self.probability, "choice": self.choice, **self.tasks}.items():
            if not 0 <= chance <= 1:
                raise ValueError(f"{name}: a probability lies from 0 to 1, not at {chance}")

    def least(self, task: str) -> float:
        """Probability that this task must reach."""
        return self.tasks.get(task, self.probability)

    def shows(self, task: str) -> bool | None:
        """Whether held-out rows show that this task's own budget is kept; None if it has none of its own."""
        return task not in self.unshown if task in self.tasks else None


@dataclass(frozen=True, slots=True)
class Judged:
    """n held-out rows under one scale."""

    fit: Doubles
    top: Doubles
    """Probability of the likeliest task."""
    column: NDArray[np.int64]
    """Of the likeliest task."""
    right: Mask

    @classmethod
    def of(cls, scores: Doubles, scale: Scale, truth: NDArray[np.int64] | None) -> Judged:
        """Fused scores ``[n, tasks]`` of rows of these tasks; of none, without ``truth``."""
        if not len(scores):
            return cls(np.empty(0), np.empty(0), np.empty(0, np.int64), np.empty(0, bool))
        column = scores.argmax(1)
        right = np.zeros(len(scores), bool) if truth is None else column == truth
        return cls(scores.max(1), scale.probabilities(scores).max(1), column, right)

    def routed(self, thresholds: Thresholds, names: Sequence[str]) -> Mask:
        """Which of them the thresholds let go to a task."""
        least = np.array([thresholds.least(name) for name in names])
        return np.asarray((self.fit >= thresholds.fit) & (self.top >= least[self.column]))


def foreign(held: HeldOut, scale: Scale) -> dict[str, Judged]:
    """Rows that no task takes, by kind: the background, every row with its own task left out (``loto``),
    and the fleet's own (``foreign``); those of which there are any."""
    scores = scale.fused(held.views)
    tasks = scores.shape[1]
    others = np.where(np.arange(tasks) == held.truth[:, None], -np.inf, scores)
    found = {
        "background": Judged.of(scale.fused(held.background), scale, None),
        "loto": Judged.of(others if tasks > 1 else np.empty((0, 1)), scale, None),
        "foreign": Judged.of(scale.fused(held.own), scale, None),
    }
    return {kind: rows for kind, rows in found.items() if len(rows.fit)}


def set_thresholds(held: HeldOut, scale: Scale, names: Sequence[str], budget: Budget) -> Thresholds:
    """The thresholds that held-out rows give."""
    if not len(held.truth):
        origin = "no task has two inputs to hold one out, so: more like a task than like text in general"
        stricter = _stricter(names, budget)
        return Thresholds(0.0, EVEN, dict.fromkeys(stricter, SURE), 0.0, origin, False, stricter)
    scores = scale.fused(held.views)
    rows = Judged.of(scores, scale, held.truth)
    strangers = list(foreign(held, scale).values())
    fit, probability, kept = _search(rows, strangers, budget)
    if not kept:
        fit = max(fit, 0.0)  # more like a task than like text in general, where rows do not say otherwise
    own, unshown = _own(rows, strangers, names, budget, fit, probability)
    fits = rows.fit >= fit
    true_chances = scale.probabilities(scores)[np.arange(len(scores)), held.truth]
    choice = _choice(true_chances[fits])
    origin = _origin(len(rows.fit), len(names), budget, kept, unshown)
    return Thresholds(fit, probability, own, choice, origin, kept, unshown)


def _search(rows: Judged, strangers: Sequence[Judged], budget: Budget) -> tuple[float, float, bool]:
    """Fit and probability thresholds of the largest coverage, to within ``EQUAL``, and whether they are shown
    to keep the budget.

    Where held-out rows cannot show it, their rate must keep the budget; where not even that does, a task must
    be ``SURE``, and fit as the least rate asks.
    """
    levels = np.unique(np.concatenate([[EVEN], np.quantile(rows.top, np.linspace(0, 1, LEVELS))]))
    levels = levels[levels >= EVEN]
    for bound in (True, False):
        found: list[tuple[float, float, float]] = []
        for refused in REFUSALS:
            fit = float(np.quantile(rows.fit, refused))
            routed, shares = _paths(rows, strangers, fit, levels, budget, bound=bound)
            kept = np.flatnonzero((shares <= budget.max_misroute) & (routed > 0))
            if len(kept):
                most = kept[np.argmax(routed[kept])]
                found.append((float(routed[most]) / len(rows.fit), fit, float(levels[most])))
        if found:
            largest = max(coverage for coverage, _, _ in found)
            # Candidates come by what they refuse, the fewest first.
            return *next((f, p) for coverage, f, p in found if coverage >= largest - EQUAL), bound
    fits = [float(np.quantile(rows.fit, refused)) for refused in REFUSALS]
    sure = np.array([SURE])
    rates = [_paths(rows, strangers, fit, sure, budget, bound=False)[1][0] for fit in fits]
    return fits[int(np.argmin(rates))], SURE, False


def _paths(
    rows: Judged,
    strangers: Sequence[Judged],
    fit: float,
    levels: Doubles,
    budget: Budget,
    *,
    bound: bool,
    column: int = -1,
) -> tuple[NDArray[np.int64], Doubles]:
    """For each probability: held-out rows that are routed, and the share of misroutes or its upper bound.

    Only those routed to one task, if a ``column`` is given.
    """

    def above(each: Judged, mask: Mask) -> NDArray[np.int64]:
        mask = mask & (each.fit >= fit) & ((each.column == column) | (column < 0))
        below = np.searchsorted(np.sort(each.top[mask]), levels, "left")
        return np.asarray(mask.sum() - below, dtype=np.int64)

    share = _upper if bound else _rate
    routed = above(rows, np.ones(len(rows.fit), bool))
    wrong = above(rows, np.logical_not(rows.right))
    mine = (1 - budget.out_of_scope) * routed / len(rows.fit)
    theirs = np.zeros(len(levels))
    for each in strangers:
        taken = above(each, np.ones(len(each.fit), bool))
        theirs += budget.out_of_scope / len(strangers) * share(taken, np.full(len(levels), len(each.fit)))
    missed = mine * share(wrong, routed) + theirs
    return routed, np.where(routed > 0, missed / np.maximum(mine + theirs, 1e-12), 1.0)


def _own(
    rows: Judged,
    strangers: Sequence[Judged],
    names: Sequence[str],
    budget: Budget,
    fit: float,
    probability: float,
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Probabilities of tasks that are stricter than the fleet, and of which the budget is not shown.

    A stricter task takes the least probability under which the whole fleet would keep its budget, and the
    rows that are routed to it do so for themselves, jobs of nobody among them: by the bound; or, where that
    is not shown, by the rate; or else it must be ``SURE``.
    """
    stricter = _stricter(names, budget)
    if not stricter:
        return {}, ()
    own: dict[str, float] = {}
    unshown = []
    levels = np.unique(np.concatenate([[probability], rows.top[rows.top >= probability]]))
    whole = {bound: _paths(rows, strangers, fit, levels, budget, bound=bound)[1] for bound in (True, False)}
    for name in stricter:
        allowed, column = budget.of(name), names.index(name)
        for bound, shares in whole.items():
            routed, mine = _paths(rows, strangers, fit, levels, budget, bound=bound, column=column)
            enough = np.flatnonzero((shares <= allowed) & (mine <= allowed) & (routed > 0))
            if len(enough):
                own[name] = float(levels[enough[0]])
                break
        else:
            own[name] = max(probability, SURE)
            bound = False
        if not bound:
            unshown.append(name)
    return own, tuple(unshown)


def _stricter(names: Sequence[str], budget: Budget) -> tuple[str, ...]:
    return tuple(name for name in names if budget.of(name) < budget.max_misroute)


def _choice(true_chances: Doubles) -> float:
    """The probability that the right task reaches in all but ``SET_MISSES`` of held-out rows."""
    if not len(true_chances):
        return 0.0
    rank = int(np.floor(SET_MISSES * (len(true_chances) + 1)))
    return float(np.sort(true_chances)[rank - 1]) if rank else 0.0


def _rate(hits: NDArray[np.int64], of: NDArray[np.int64]) -> Doubles:
    """With half a hit and half a miss more (Jeffreys): one row that went well shows nothing."""
    return np.asarray((hits + 0.5) / (of + 1))


def _upper(hits: NDArray[np.int64], of: NDArray[np.int64]) -> Doubles:
    """Clopper and Pearson's upper bound, one-sided."""
    return np.where(hits >= of, 1.0, beta.ppf(CONFIDENCE, hits + 1, np.maximum(of - hits, 1)))


def _origin(rows: int, tasks: int, budget: Budget, kept: bool, unshown: Sequence[str]) -> str:
    names = "1 task" if tasks == 1 else f"{tasks} tasks"
    promise = (
        f"the largest coverage (within {EQUAL:.0%}) with at most {budget.max_misroute:.1%} of routed jobs "
        f"misrouted, at "
        f"{CONFIDENCE:.0%} confidence"
        if kept
        else f"too few or too similar to show {budget.max_misroute:.1%} misroutes at most, so nearest to it"
    )
    return (
        f"{rows} held-out rows of {names}, held-out background and each task left out once "
        f"({budget.out_of_scope:.0%} of jobs are reckoned to fit no task): {promise}"
        + "".join(f"; not shown for {name} and its {budget.of(name):.1%}" for name in unshown)
    )
