"""Waiting for what another thread or process brings about."""

from __future__ import annotations

import threading
from collections.abc import Callable

SECONDS = 120.0


def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Until it holds; fails when it has not come about in time."""
    gate = threading.Event()
    for _ in range(int(seconds * 20)):
        if condition():
            return
        gate.wait(0.05)
    raise AssertionError("it has not come about")
