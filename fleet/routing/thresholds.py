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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from fleet.routing.budget import Budget, Thresholds
from fleet.routing.calibrate import Scale
from fleet.routing.heldout import HeldOut
from fleet.routing.judged import Judged, foreign

__all__ = ["EQUAL", "set_thresholds"]

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]

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


def set_thresholds(held: HeldOut, scale: Scale, names: Sequence[str], budget: Budget) -> Thresholds:
    """The thresholds that held-out rows give. The smaller a budget, the higher they are."""
    if not len(held.truth):
        origin = "no task has two inputs to hold one out, so: more like a task than like text in general"
        stricter = _stricter(names, budget)
        return Thresholds(0.0, EVEN, dict.fromkeys(stricter, SURE), 0.0, origin, False, stricter)
    scores = scale.fused(held.views)
    rows = Judged.of(scores, scale, held.truth)
    trial = _Trial(rows, _kinds(foreign(held, scale)), names, budget)
    fit, probability, kept = trial.search()
    if not kept:
        fit = max(fit, 0.0)  # more like a task than like text in general, where rows do not say otherwise
    own, unshown = trial.own(fit, probability)
    if kept and own:
        probability, kept = trial.beside(fit, probability, own)
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


@dataclass(frozen=True, slots=True)
class _Trial:
    """Rows that thresholds are tried on."""

    rows: Judged
    strangers: Sequence[Judged]
    """Kinds of jobs that no task may take, each of the same weight."""
    names: Sequence[str]
    budget: Budget

    def search(self) -> tuple[float, float, bool]:
        """Fit and probability thresholds of the largest coverage, to within ``EQUAL``, and whether they are
        shown to keep the budget.

        Where held-out rows cannot show it, no more is routed than under the least budget that they show, and
        their rate must keep this one; where not even that does, the rate is the least, and a task ``SURE``.
        """
        levels = _levels(self.rows.top, EVEN)
        fits = [float(np.quantile(self.rows.fit, refused)) for refused in REFUSALS]
        paths = [self._paths(fit, levels) for fit in fits]
        routed, bounds, rates = (np.stack(each) for each in zip(*paths, strict=True))
        coverage = routed / len(self.rows.fit)
        some = routed > 0
        if not some.any():
            return fits[0], SURE, False

        def of(allowed: Mask) -> tuple[float, float]:
            """Candidates come by what they refuse, the fewest first."""
            best = np.where(allowed, coverage, -1.0)
            row = int(np.argmax(best.max(1) >= best.max() - EQUAL))
            return fits[row], float(levels[best[row].argmax()])

        if (shown := some & (bounds <= self.budget.max_misroute)).any():
            return *of(shown), True
        nearest = some & (bounds == bounds[some].min())
        strict = some & (routed <= routed[nearest].max())
        if (likely := strict & (rates <= self.budget.max_misroute)).any():
            return *of(likely), False
        fit, level = of(strict & (rates == rates[strict].min()))
        return fit, max(level, SURE), False

    def own(self, fit: float, probability: float) -> tuple[dict[str, float], tuple[str, ...]]:
        """Probabilities of tasks that are stricter than the fleet, and of which the budget is not shown.

        A stricter task takes the least probability under which the whole fleet would keep its budget, and the
        rows that are routed to it do so for themselves, jobs of nobody among them, by the bound. Where that
        is not shown: as high at least as under the least budget that is, and by the rate; or where the rate
        is least, and ``SURE``.
        """
        stricter = _stricter(self.names, self.budget)
        if not stricter:
            return {}, ()
        own: dict[str, float] = {}
        unshown = []
        top = self.rows.top
        levels = np.unique(np.concatenate([[probability], top[top >= probability]]))
        _, *whole = self._paths(fit, levels)
        for name in stricter:
            allowed = self.budget.of(name)
            routed, *mine = self._paths(fit, levels, self.names.index(name))
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

    def beside(self, fit: float, probability: float, own: Mapping[str, float]) -> tuple[float, bool]:
        """The probability that keeps the fleet's budget beside stricter tasks with their ``own``, and whether
        any does: where those that are mostly right route less, the others' misroutes are a larger share."""

        def routed(each: Judged, level: float) -> Mask:
            least = np.array([own.get(name, level) for name in self.names])
            return np.asarray((each.fit >= fit) & (each.top >= least[each.column]))

        for level in _levels(self.rows.top, probability):
            some = routed(self.rows, level)
            counts = [np.array([int(mask.sum())]) for mask in (some, some & ~self.rows.right)]
            taken = [np.array([int(routed(each, level).sum())]) for each in self.strangers]
            if self._share(counts[0], counts[1], taken, _upper)[0] <= self.budget.max_misroute:
                return float(level), True
        return probability, False

    def _paths(
        self, fit: float, levels: Doubles, column: int = -1
    ) -> tuple[NDArray[np.int64], Doubles, Doubles]:
        """For each probability: held-out rows that are routed, the upper bound of the share of misroutes, and
        the share itself.

        Only those routed to one task, if a ``column`` is given.
        """

        def above(each: Judged, mask: Mask) -> NDArray[np.int64]:
            mask = mask & (each.fit >= fit) & ((each.column == column) | (column < 0))
            below = np.searchsorted(np.sort(each.top[mask]), levels, "left")
            return np.asarray(mask.sum() - below, dtype=np.int64)

        routed = above(self.rows, np.ones(len(self.rows.fit), bool))
        wrong = above(self.rows, np.logical_not(self.rows.right))
        taken = [above(each, np.ones(len(each.fit), bool)) for each in self.strangers]
        bounds, rates = (self._share(routed, wrong, taken, share) for share in (_upper, _rate))
        return routed, bounds, rates

    def _share(
        self,
        routed: NDArray[np.int64],
        wrong: NDArray[np.int64],
        taken: Sequence[NDArray[np.int64]],
        share: Callable[[NDArray[np.int64], NDArray[np.int64]], Doubles],
    ) -> Doubles:
        """Of misroutes among routed jobs, by ``share`` of hits in rows: ``wrong`` of those ``routed``, and
        strangers ``taken`` of each kind."""
        mine = (1 - self.budget.out_of_scope) * routed / len(self.rows.fit)
        theirs = np.zeros(len(routed))
        for hits, each in zip(taken, self.strangers, strict=True):
            of = np.full(len(hits), len(each.fit))
            theirs += self.budget.out_of_scope / len(taken) * share(hits, of)
        missed = mine * share(wrong, routed) + theirs
        return np.where(routed > 0, missed / np.maximum(mine + theirs, 1e-12), 1.0)


def _levels(top: Doubles, least: float) -> Doubles:
    """Candidates for a probability, rising from ``least``."""
    some = np.quantile(top, np.linspace(0, 1, LEVELS))
    return np.unique(np.concatenate([[least], some[some >= least]]))


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
