"""Thresholds that keep a budget of misroutes, and what they cost in coverage. Knows no features.

A misroute is a job that is routed to a task which is not its own. The budget holds for the share of
misroutes among routed jobs, in a traffic of which some jobs fit no task. Among pairs of thresholds for
fit and probability the one is taken that routes most held-out jobs, to within ``EQUAL``, while the upper
confidence bound of the share keeps the budget: selective classification after Geifman and El-Yaniv 2017
(arXiv:1705.08500), but each candidate is bounded for itself, without their correction for having looked at
many. So the confidence is nominal: that of one candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
"""Probability that is asked for at least where held-out rows show nothing."""
ENOUGH = 50
"""Jobs of nobody that a fleet must have to count as a kind of their own: the bound of few says little."""
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
    and, where the fleet has ``ENOUGH``, like its own jobs of nobody."""

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

    @classmethod
    def joined(cls, *parts: Judged) -> Judged:
        """One after the other."""
        return cls(
            np.concatenate([part.fit for part in parts]),
            np.concatenate([part.top for part in parts]),
            np.concatenate([part.column for part in parts]),
            np.concatenate([part.right for part in parts]),
        )

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
    """The thresholds that held-out rows give. The smaller a budget, the higher they are."""
    if not len(held.truth):
        origin = "no task has two inputs to hold one out, so: more like a task than like text in general"
        stricter = _stricter(names, budget)
        return Thresholds(0.0, EVEN, dict.fromkeys(stricter, SURE), 0.0, origin, False, stricter)
    scores = scale.fused(held.views)
    rows = Judged.of(scores, scale, held.truth)
    strangers = _kinds(foreign(held, scale))
    fit, probability, kept = _search(rows, strangers, budget)
    if not kept:
        fit = max(fit, 0.0)  # more like a task than like text in general, where rows do not say otherwise
    own, unshown = _own(rows, strangers, names, budget, fit, probability)
    if kept and own:
        probability, kept = _beside(rows, strangers, names, budget, fit, probability, own)
    fits = rows.fit >= fit
    true_chances = scale.probabilities(scores)[np.arange(len(scores)), held.truth]
    choice = _choice(true_chances[fits])
    origin = _origin(len(rows.fit), len(names), budget, kept, unshown)
    return Thresholds(fit, probability, own, choice, origin, kept, unshown)


def _kinds(found: Mapping[str, Judged]) -> list[Judged]:
    """Kinds of strangers that weigh alike; a few of the fleet's own count with the background."""
    own, background = found.get("foreign"), found.get("background")
    if own is None or background is None or len(own.fit) >= ENOUGH:
        return list(found.values())
    rest = [rows for kind, rows in found.items() if kind not in ("foreign", "background")]
    return [Judged.joined(background, own), *rest]


def _levels(top: Doubles, least: float) -> Doubles:
    """Candidates for a probability, rising from ``least``."""
    some = np.quantile(top, np.linspace(0, 1, LEVELS))
    return np.unique(np.concatenate([[least], some[some >= least]]))


def _search(rows: Judged, strangers: Sequence[Judged], budget: Budget) -> tuple[float, float, bool]:
    """Fit and probability thresholds of the largest coverage, to within ``EQUAL``, and whether they are shown
    to keep the budget.

    Where held-out rows cannot show it, no more is routed than under the least budget that they show, and
    their rate must keep this one; where not even that does, the rate is the least, and a task ``SURE``.
    """
    levels = _levels(rows.top, EVEN)
    fits = [float(np.quantile(rows.fit, refused)) for refused in REFUSALS]
    paths = [_paths(rows, strangers, fit, levels, budget) for fit in fits]
    routed, bounds, rates = (np.stack(each) for each in zip(*paths, strict=True))
    coverage = routed / len(rows.fit)
    some = routed > 0
    if not some.any():
        return fits[0], SURE, False

    def of(allowed: Mask) -> tuple[float, float]:
        """Candidates come by what they refuse, the fewest first."""
        best = np.where(allowed, coverage, -1.0)
        row = int(np.argmax(best.max(1) >= best.max() - EQUAL))
        return fits[row], float(levels[best[row].argmax()])

    if (shown := some & (bounds <= budget.max_misroute)).any():
        return *of(shown), True
    nearest = some & (bounds == bounds[some].min())
    strict = some & (routed <= routed[nearest].max())
    if (likely := strict & (rates <= budget.max_misroute)).any():
        return *of(likely), False
    fit, level = of(strict & (rates == rates[strict].min()))
    return fit, max(level, SURE), False


def _paths(
    rows: Judged, strangers: Sequence[Judged], fit: float, levels: Doubles, budget: Budget, column: int = -1
) -> tuple[NDArray[np.int64], Doubles, Doubles]:
    """For each probability: held-out rows that are routed, the upper bound of the share of misroutes, and the
    share itself.

    Only those routed to one task, if a ``column`` is given.
    """

    def above(each: Judged, mask: Mask) -> NDArray[np.int64]:
        mask = mask & (each.fit >= fit) & ((each.column == column) | (column < 0))
        below = np.searchsorted(np.sort(each.top[mask]), levels, "left")
        return np.asarray(mask.sum() - below, dtype=np.int64)

    routed = above(rows, np.ones(len(rows.fit), bool))
    wrong = above(rows, np.logical_not(rows.right))
    taken = [(above(each, np.ones(len(each.fit), bool)), len(each.fit)) for each in strangers]
    bounds, rates = (_share(routed, wrong, len(rows.fit), taken, budget, share) for share in (_upper, _rate))
    return routed, bounds, rates


def _share(
    routed: NDArray[np.int64],
    wrong: NDArray[np.int64],
    rows: int,
    taken: Sequence[tuple[NDArray[np.int64], int]],
    budget: Budget,
    share: Callable[[NDArray[np.int64], NDArray[np.int64]], Doubles],
) -> Doubles:
    """Of misroutes among routed jobs, by ``share`` of hits in rows: ``wrong`` of those ``routed`` out of so
    many ``rows``, and strangers ``taken``, of each kind so many out of so many."""
    mine = (1 - budget.out_of_scope) * routed / rows
    theirs = np.zeros(len(routed))
    for hits, of in taken:
        theirs += budget.out_of_scope / len(taken) * share(hits, np.full(len(hits), of))
    missed = mine * share(wrong, routed) + theirs
    return np.where(routed > 0, missed / np.maximum(mine + theirs, 1e-12), 1.0)


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
    rows that are routed to it do so for themselves, jobs of nobody among them, by the bound. Where that is
    not shown: as high at least as under the least budget that is, and by the rate; or where the rate is
    least, and ``SURE``.
    """
    stricter = _stricter(names, budget)
    if not stricter:
        return {}, ()
    own: dict[str, float] = {}
    unshown = []
    levels = np.unique(np.concatenate([[probability], rows.top[rows.top >= probability]]))
    _, *whole = _paths(rows, strangers, fit, levels, budget)
    for name in stricter:
        allowed = budget.of(name)
        routed, *mine = _paths(rows, strangers, fit, levels, budget, names.index(name))
        bounds, rates = (
            np.where(routed > 0, np.maximum(*each), np.inf) for each in zip(whole, mine, strict=True)
        )
        if bounds.min() <= allowed:
            own[name] = float(levels[np.argmax(bounds <= allowed)])
            continue
        unshown.append(name)
        rates[: bounds.argmin()] = np.inf
        if rates.min() <= allowed:
            own[name] = float(levels[np.argmax(rates <= allowed)])
        else:
            own[name] = max(float(levels[rates.argmin()]), SURE)
    return own, tuple(unshown)


def _beside(
    rows: Judged,
    strangers: Sequence[Judged],
    names: Sequence[str],
    budget: Budget,
    fit: float,
    probability: float,
    own: Mapping[str, float],
) -> tuple[float, bool]:
    """The probability that keeps the fleet's budget beside stricter tasks with their ``own``, and whether any
    does: where those that are mostly right route less, the others' misroutes are a larger share."""

    def routed(each: Judged, level: float) -> Mask:
        least = np.array([own.get(name, level) for name in names])
        return np.asarray((each.fit >= fit) & (each.top >= least[each.column]))

    for level in _levels(rows.top, probability):
        some = routed(rows, level)
        counts = [np.array([int(mask.sum())]) for mask in (some, some & ~rows.right)]
        taken = [(np.array([int(routed(each, level).sum())]), len(each.fit)) for each in strangers]
        if _share(counts[0], counts[1], len(rows.fit), taken, budget, _upper)[0] <= budget.max_misroute:
            return float(level), True
    return probability, False


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
