from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fleet.fair import FairQueue

WORK = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=60)


@given(WORK)
def test_everything_comes_out_once_and_in_order_within_its_task(work: list[tuple[str, int]]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, (task, cost) in enumerate(work):
        queue.put(task, (task, number), cost)
    out = [item for item in iter(queue.pop, None) if item is not None]
    assert sorted(number for _, number in out) == list(range(len(work)))
    for task in "abc":
        numbers = [number for name, number in out if name == task]
        assert numbers == sorted(numbers)
    assert len(queue) == 0


@given(st.integers(1, 40), st.integers(1, 40))
def test_tasks_that_wait_get_equal_shares_whatever_their_jobs_cost(one: int, other: int) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for _ in range(400):
        queue.put("one", ("one", one), one)
        queue.put("other", ("other", other), other)
    done: Counter[str] = Counter()
    for _ in range(300):
        task, cost = queue.pop() or ("", 0)
        done[task] += cost
    if queue.waiting("one") and queue.waiting("other"):
        assert abs(done["one"] - done["other"]) <= one + other


def test_who_comes_after_a_flood_is_served_next() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        queue.put("flood", f"flood {number}", 10)
    for _ in range(20):
        queue.pop()
    queue.put("late", "late", 10)
    assert "late" in [queue.pop(), queue.pop()]


def test_idleness_earns_no_credit() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("idle", "idle", 1)
    queue.pop()
    for _ in range(50):
        queue.put("busy", "busy", 10)
        queue.pop()
    for _ in range(10):
        queue.put("idle", "idle", 10)
        queue.put("busy", "busy", 10)
    assert Counter(queue.pop() for _ in range(10)) == {"idle": 5, "busy": 5}


def test_leaving_and_coming_back_does_not_jump_the_queue() -> None:
    """A task whose queue runs empty between its jobs has used its share all the same."""
    queue: FairQueue[str] = FairQueue()
    for _ in range(40):
        queue.put("steady", "steady", 10)
    order = []
    for _ in range(20):
        queue.put("pulsing", "pulsing", 100)
        order += [queue.pop(), queue.pop()]
        queue.remove(lambda item: item == "pulsing")
    assert 1 <= order.count("pulsing") <= 5


def test_a_task_that_is_not_ready_is_passed_over() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("cold", "cold", 1)
    queue.put("warm", "warm", 1)
    assert queue.pop(lambda item: item != "cold") == "warm"
    assert queue.pop(lambda item: item != "cold") is None
    assert queue.pop() == "cold"


def test_what_is_removed_never_comes() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(6):
        queue.put("ab"[number % 2], number, 1)
    assert sorted(queue.remove(lambda item: item > 2)) == [3, 4, 5]
    assert sorted(item for item in iter(queue.pop, None)) == [0, 1, 2]
