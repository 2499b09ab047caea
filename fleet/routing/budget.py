"""What is promised of misroutes, and what decisions are measured against for it. Knows no rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DEFAULT_BUDGET", "OUT_OF_SCOPE", "Budget", "Thresholds"]

DEFAULT_BUDGET = 0.05
OUT_OF_SCOPE = 0.05


@dataclass(frozen=True, slots=True)
class Budget:
    """Greatest share of misroutes among routed jobs."""

    max_misroute: float = DEFAULT_BUDGET
    tasks: Mapping[str, float] = field(default_factory=dict)
    """Of tasks that are stricter."""
    out_of_scope: float = OUT_OF_SCOPE
    """Share of jobs that fit no task, as is reckoned: in equal parts like the background, like other tasks
    and, where the fleet has enough of them, like its own jobs of nobody."""

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
