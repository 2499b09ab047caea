"""What is shown of a challenger that shadows, over all replicas. Knows no transport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleet.comparison import Comparison
from fleet.following import ChallengerStanding, State
from fleet.live import LiveState
from fleet.registry.version import VersionInfo

WORSE: Sequence[State] = ("ready", "waiting", "quarantined")
"""From the best to the worst."""


@dataclass(frozen=True, slots=True)
class ChallengerState:
    """A challenger that is asked some of the champion's jobs too; its answers go nowhere."""

    version: int
    digest: str
    state: State
    ready_on: int
    reason: str
    """Why it is not asked."""
    champion: int
    """The champion's version that it is compared with; all figures are of these two."""
    asked: int
    """Jobs that the champion has answered and this version was asked too."""
    agreement: float | None
    """Share of them with the same answer; one without an answer counts as another one."""
    fields: Mapping[str, float]
    """Of records: by field, the share that is the same, where both answered."""
    likeness: float | None
    """Of free texts: how much of the words is the same in the same order, 0 to 1 on average."""
    failed: int
    """Jobs that it had no answer to."""
    failure: str
    """The last reason for that."""
    skipped: int
    """Jobs that it was not asked because more than may were waiting for it."""
    champion_ms: float | None
    """Average of the expert's stage on the jobs that both answered, in whatever company they ran,"""
    challenger_ms: float | None
    """and the challenger's on the same jobs, which runs alone."""


def challenger_state(
    info: VersionInfo | None, states: Sequence[LiveState], gone: Sequence[LiveState] = ()
) -> ChallengerState | None:
    """A task's challenger over replicas; None where nobody shadows. Of ``gone`` ones the figures count."""
    standings = [] if info is None else _of(info, states)
    if info is None or not standings:
        return None
    # Replicas may have different champions for a moment; the oldest is the one that is shown.
    champion = min(standing.champion for standing in standings)
    total = Comparison()
    for standing in (*standings, *_of(info, gone)):
        if standing.champion == champion and standing.comparison is not None:
            total += standing.comparison
    return ChallengerState(
        version=info.version,
        digest=info.digest,
        state=max((s.state for s in standings), key=WORSE.index),
        ready_on=sum(s.state == "ready" for s in standings),
        reason=next((s.reason for s in standings if s.reason), ""),
        champion=champion,
        asked=total.asked,
        agreement=_share(total.agreed, total.asked),
        fields={n: round(agreed / total.answered, 4) for n, agreed in total.fields_agreed.items()},
        likeness=_share(total.alike, total.texts),
        failed=total.failed,
        failure=total.failure,
        skipped=total.skipped,
        champion_ms=_share(total.champion_ms, total.answered),
        challenger_ms=_share(total.challenger_ms, total.answered),
    )


def _of(info: VersionInfo, states: Sequence[LiveState]) -> list[ChallengerStanding]:
    return [
        standing
        for state in states
        for standing in state.challengers
        if (standing.task, standing.version, standing.digest) == (info.task, info.version, info.digest)
    ]


def _share(part: float, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
