"""What is shown of the router's decisions, over all replicas. Knows no transport."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.live import LiveState
from fleet.routing.shift import ShiftState, shift_state


def decisions_state(
    router_version: int | None, states: Sequence[LiveState], gone: Sequence[LiveState], now: float
) -> ShiftState | None:
    """Of the router that decides; None without one. What ``gone`` replicas decided counts on."""
    if router_version is None:
        return None
    counted = [s.decided for s in (*states, *gone) if s.decided is not None]
    return shift_state(
        router_version,
        [
            each
            for decided in counted
            if decided.router_version == router_version
            for each in decided.stretches
        ],
        next((s.expected for s in states if s.router_version == router_version), None),
        now,
    )
