"""The router: evidence of every task, the linear map over it, thresholds. Knows no text and no files.

A value: ``add``, ``replace`` and ``remove`` give another router. All of it is a function of the
evidence alone, so a router that lost a task equals one that never had it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fleet.errors import SealError
from fleet.routing.calibrate import Thresholds, calibrate, cross_validate
from fleet.routing.decision import Decision, judge
from fleet.routing.discriminant import Discriminant
from fleet.routing.evidence import Evidence, fold_of_group
from fleet.routing.features import Floats, Frame, stack

__all__ = ["Ground", "Router"]

TOP = 5


@dataclass(frozen=True, slots=True)
class Ground:
    """What every router over one base shares: the space, and the background in it."""

    base_fingerprint: str
    taps: tuple[int, ...]
    frame: Frame
    rows: NDArray[np.float16]
    """``[m, D]`` background rows, in the frame."""
    groups: tuple[str, ...]
    digest: str
    """Of the background's texts."""


@dataclass(frozen=True, slots=True)
class Router:
    """Decides which task a job belongs to, from the trunk's means."""

    ground: Ground
    evidence: Mapping[str, Evidence]
    discriminant: Discriminant
    thresholds: Thresholds
    metrics: Mapping[str, float]
    """How held-out rows fared; thresholds were set on the same rows, so they flatter a little."""

    @classmethod
    def build(cls, ground: Ground, evidence: Mapping[str, Evidence]) -> Router:
        """Fit the map and set the thresholds. Raises ``ValueError`` without a task."""
        if not evidence:
            raise ValueError("a router needs at least one task")
        ordered = {name: evidence[name] for name in sorted(evidence)}
        discriminant = Discriminant.fit({name: each.rows for name, each in ordered.items()}, ground.rows)
        held = cross_validate(ordered, ground.rows, fold_of_group(ground.groups))
        thresholds, metrics = calibrate(held)
        return cls(ground, ordered, discriminant, thresholds, metrics)

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.discriminant.names

    @property
    def taps(self) -> tuple[int, ...]:
        """The layers after which the trunk must take its means."""
        return self.ground.taps

    @property
    def data_digests(self) -> dict[str, str]:
        """Of each task's data, as it was fitted."""
        return {name: each.digest for name, each in self.evidence.items()}

    def add(self, task: str, evidence: Evidence) -> Router:
        """With one task more. Raises ``ValueError`` if it is there already."""
        if task in self.evidence:
            raise ValueError(f"{task} is routed to already: replace it")
        return Router.build(self.ground, {**self.evidence, task: evidence})

    def replace(self, task: str, evidence: Evidence) -> Router:
        """With a task's evidence exchanged. Raises ``KeyError`` if it is not there."""
        return self.remove(task).add(task, evidence) if len(self.evidence) > 1 else self._only(task, evidence)

    def remove(self, task: str) -> Router:
        """Without a task. Raises ``KeyError`` if it is not there, ``ValueError`` if it is the only one."""
        rest = dict(self.evidence)
        del rest[task]
        return Router.build(self.ground, rest)

    def check_base(self, fingerprint: str) -> None:
        """Raise ``SealError`` unless fitted over this base."""
        if self.ground.base_fingerprint != fingerprint:
            raise SealError(
                f"the router was fitted over base {self.ground.base_fingerprint[:12]}, this one is "
                f"{fingerprint[:12]}: set `base` in fleet.yaml to that one, or run fleet router fit"
            )

    def decide(
        self,
        jobs: Sequence[Mapping[int, Tensor]] | Floats,
        *,
        top: int = TOP,
        known: Collection[str] | None = None,
    ) -> list[Decision]:
        """A decision for each job: ``TrunkState.means``, or raw features ``[n, D]`` of ``features.stack``.

        ``known`` limits the tasks that may be routed to; ``top`` the scores that a decision shows.
        """
        raw = jobs if isinstance(jobs, np.ndarray) else stack(jobs, self.taps)
        if not len(raw):
            return []
        columns = [n for n, name in enumerate(self.tasks) if known is None or name in known]
        if not columns:
            return [Decision.none("the router knows none of the tasks that could answer")] * len(raw)
        names = [self.tasks[n] for n in columns]
        blank = self.ground.frame.is_blank(raw)
        scores = self.scores(np.where(blank[:, None], self.ground.frame.centre, raw))[:, columns]
        chances = self.thresholds.probabilities(scores)
        decisions = []
        for row, chance, empty in zip(scores, chances, blank, strict=True):
            if empty:
                decisions.append(Decision.none("the job holds no text that could be measured"))
                continue
            order = np.argsort(-row, kind="stable")
            ranked = [(names[n], float(chance[n])) for n in order]
            decisions.append(judge(ranked, names[order[0]], float(row[order[0]]), self.thresholds, top))
        return decisions

    def scores(self, raw: Floats) -> NDArray[np.float64]:
        """Relative Mahalanobis distance of raw ``[n, D]`` to each task ``[n, tasks]``."""
        return self.discriminant.scores(self.ground.frame.place(raw))

    def _only(self, task: str, evidence: Evidence) -> Router:
        if task not in self.evidence:
            raise KeyError(task)
        return Router.build(self.ground, {task: evidence})
