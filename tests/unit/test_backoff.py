"""When what failed is tried again, however often it failed."""

from __future__ import annotations

from fleet.backoff import FIRST_RETRY, LONGEST_RETRY, Backoff


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pauses_double_up_to_the_longest_and_never_end() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    pauses = []
    for attempt in range(1, 2001):
        assert backoff.put_off("a") == attempt
        assert backoff.waits("a")
        before = clock.now
        while backoff.waits("a"):
            clock.now += FIRST_RETRY
        pauses.append(clock.now - before)
    assert pauses[:4] == [FIRST_RETRY * 2**n for n in range(4)]
    assert set(pauses[10:]) == {LONGEST_RETRY}


def test_what_did_not_fail_does_not_wait() -> None:
    backoff = Backoff(Clock())
    assert "a" not in backoff
    assert not backoff.waits("a")
    backoff.put_off("a")
    assert "a" in backoff
    assert not backoff.waits("b")
    backoff.at_once("a")
    assert "a" in backoff
    assert not backoff.waits("a")
    backoff.forget("a")
    assert "a" not in backoff
