"""The router: evidence of every task, two linear maps over it, thresholds. Knows no files.

A value: ``add``, ``replace`` and ``remove`` give another router. All of it is a function of the
evidence and the budget alone, so a router that lost a task equals one that never had it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fleet.errors import SealError
from fleet.routing.budget import Budget, Thresholds
from fleet.routing.calibrate import Scale, calibrate
from fleet.routing.compound import Compounds
from fleet.routing.decision import CHOICES, Cause, Decision, judge
from fleet.routing.discriminant import Discriminant
from fleet.routing.evidence import Evidence
from fleet.routing.features import Frame
from fleet.routing.heldout import cross_validate
from fleet.routing.lexical import Lexicon
from fleet.routing.reading import Readings
from fleet.routing.report import Fare, fares, figures
from fleet.routing.span import Span
from fleet.routing.stability import flips
from fleet.routing.statistics import Corpus, Statistics
from fleet.routing.thresholds import set_thresholds

__all__ = ["Ground", "Router"]

TOP = 5


@dataclass(frozen=True, slots=True)
class Ground:
    """What every router over one base shares: the space, and the background in it."""

    base_fingerprint: str
    taps: tuple[int, ...]
    frame: Frame
    corpus: Corpus
    digest: str
    """Of the background's texts,"""
    own_digest: str = ""
    """and of the fleet's own jobs of nobody among them."""


@dataclass(frozen=True, slots=True)
class Router:
    """Decides which task a job belongs to, from the trunk's pooled states and its letters."""

    ground: Ground
    evidence: Mapping[str, Evidence]
    budget: Budget
    tasks: tuple[str, ...]
    dense: Discriminant
    """Both distances as one linear map."""
    lexicon: Lexicon
    scale: Scale
    thresholds: Thresholds
    metrics: Mapping[str, float]
    """How held-out rows fared; thresholds were set on the same rows, so they flatter a little."""
    fares: Mapping[str, Fare]
    """The same of each task."""
    span: Span
    compounds: Compounds | None = None
    """What recognises jobs for several tasks. Needs the base to be fitted: a router that tasks were added to,
    or taken from, has none until the next fit."""
    statistics: Statistics | None = field(default=None, compare=False, repr=False)
    """Kept by who fitted it: of a change only the changed task's rows are multiplied again. The maps, the
    held-out judges and the thresholds are made anew from these sums."""

    @classmethod
    def build(
        cls,
        ground: Ground,
        evidence: Mapping[str, Evidence],
        budget: Budget | None = None,
        statistics: Statistics | None = None,
    ) -> Router:
        """Fit the maps and set the thresholds. Raises ``ValueError`` without a task.

        ``statistics`` are those of this evidence, where they are known.
        """
        if not evidence:
            raise ValueError("a router needs at least one task")
        budget = budget or Budget()
        ordered = {name: evidence[name] for name in sorted(evidence)}
        names = tuple(ordered)
        statistics = statistics or Statistics.of(ordered, ground.corpus)
        model = statistics.model()
        held = cross_validate(ordered, ground.corpus, statistics)
        scale = calibrate(held)
        thresholds = set_thresholds(held, scale, names, budget)
        return cls(
            ground,
            ordered,
            budget,
            names,
            scale.merged(model, ground.corpus.means),
            model.lexicon,
            scale,
            thresholds,
            figures(held, scale, names, thresholds, budget) | flips(held.changed, scale, names, thresholds),
            fares(held, scale, names, thresholds, budget),
            Span.of(ordered.values()),
            statistics=statistics,
        )

    @property
    def taps(self) -> tuple[int, ...]:
        """The layers after which the trunk must pool its states."""
        return self.ground.taps

    @property
    def data_digests(self) -> dict[str, str]:
        """Of each task's data, as it was fitted."""
        return {name: each.digest for name, each in self.evidence.items()}

    def add(self, task: str, evidence: Evidence) -> Router:
        """With one task more. Raises ``ValueError`` if it is there already."""
        if task in self.evidence:
            raise ValueError(f"{task} is routed to already: replace it")
        return self._with({**self.evidence, task: evidence}, self._statistics().plus(task, evidence))

    def replace(self, task: str, evidence: Evidence) -> Router:
        """With a task's evidence exchanged. Raises ``KeyError`` if it is not there."""
        changed = self._statistics().minus(task, self.evidence[task]).plus(task, evidence)
        return self._with({**self.evidence, task: evidence}, changed)

    def remove(self, task: str) -> Router:
        """Without a task. Raises ``KeyError`` if it is not there, ``ValueError`` if it is the only one."""
        rest = {name: each for name, each in self.evidence.items() if name != task}
        return self._with(rest, self._statistics().minus(task, self.evidence[task]))

    def under(self, budget: Budget) -> Router:
        """With thresholds for another budget."""
        made = Router.build(self.ground, self.evidence, budget, self._statistics())
        return replace(made, compounds=self.compounds)

    def check_base(self, fingerprint: str) -> None:
        """Raise ``SealError`` unless fitted over this base."""
        if self.ground.base_fingerprint != fingerprint:
            raise SealError(
                f"the router was fitted over base {self.ground.base_fingerprint[:12]}, this one is "
                f"{fingerprint[:12]}: set `base` in fleet.yaml to that one, or run fleet router fit"
            )

    def decide(
        self, jobs: Readings, *, top: int = TOP, known: Collection[str] | None = None
    ) -> list[Decision]:
        """A decision for each job.

        ``known`` are the tasks that may be routed to: a job that is likest another one goes to none of them.
        ``top`` limits the scores that a decision shows.
        """
        if not len(jobs):
            return []
        columns = np.array(
            [n for n, name in enumerate(self.tasks) if known is None or name in known], np.int64
        )
        if not len(columns):
            words = "the router knows none of the tasks that could answer"
            return [Decision.none(words, "no_expert")] * len(jobs)
        blank = self._blank(jobs)
        scores = self._scores(jobs, blank)
        chances = self.scale.probabilities(scores)
        orders = columns[_greatest(scores[:, columns], max(top, CHOICES))]
        decisions = []
        for n, (row, chance, order) in enumerate(zip(scores, chances, orders, strict=True)):
            if blank[n]:
                decisions.append(Decision.none("the job holds no text that could be measured", "no_text"))
                continue
            likeliest = int(row.argmax())
            first = (self.tasks[likeliest], float(chance[likeliest]))
            ranked = [(self.tasks[k], float(chance[k])) for k in order]

            def why(n: int = n) -> tuple[Cause, str]:
                return self.span.beyond(jobs.texts[n], jobs.tokens[n])

            answers = known is None or first[0] in known
            decisions.append(judge(first, answers, ranked, float(row[likeliest]), self.thresholds, top, why))
        return decisions

    def scores(self, jobs: Readings) -> NDArray[np.float64]:
        """How much more each job is like each task than like text in general: ``[n, tasks]``."""
        return self._scores(jobs, self._blank(jobs))

    def _blank(self, jobs: Readings) -> NDArray[np.bool_]:
        return self.ground.frame.is_blank(jobs.raw)

    def _scores(self, jobs: Readings, blank: NDArray[np.bool_]) -> NDArray[np.float64]:
        placed = self.ground.frame.place(np.where(blank[:, None], self.ground.frame.centre, jobs.raw))
        letters = self.lexicon.scores(jobs.grams)
        return np.asarray(self.dense.scores(placed) + self.scale.letters * letters)

    def _statistics(self) -> Statistics:
        return self.statistics or Statistics.of(self.evidence, self.ground.corpus)

    def _with(self, evidence: Mapping[str, Evidence], statistics: Statistics) -> Router:
        return Router.build(self.ground, evidence, self.budget, statistics)


def _greatest(scores: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Columns of each row's greatest scores, ``[n, most]`` or all, greatest first."""
    if most < scores.shape[1]:
        some = np.sort(np.argpartition(-scores, most - 1, axis=1)[:, :most], axis=1)
    else:
        some = np.tile(np.arange(scores.shape[1]), (len(scores), 1))
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)
