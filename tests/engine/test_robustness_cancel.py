"""A cancelled job leaves at once, gives its place to another, and is not missed by its mates."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shop import Shop

from fleet.engine.decode import Completion, Request, Scheduler
from fleet.engine.specs import ConstraintSpec, LabelSpec, SchemaSpec, TextSpec

TEXT = TextSpec()
LABELS = LabelSpec(("good", "goodish", "bad", "שלום", "🎉🎉"))
RECORD = SchemaSpec(
    {
        "type": "object",
        "properties": {
            "who": {"type": "array", "items": {"type": "string", "x-verbatim": True}, "maxItems": 3},
            "note": {"type": "string", "maxLength": 12},
        },
        "required": ["who", "note"],
    }
)
JOB = st.tuples(
    st.sampled_from([LABELS, RECORD, TEXT, TextSpec(temperature=3.0, seed=5)]),
    st.sampled_from(["Anna met Bo", 'she said "no" \\ twice', "héllo 🦊", "good bad " * 9]),
    st.integers(-1, 2),
)


@pytest.fixture(scope="module")
def shop(tiny_base_folder: Path) -> Shop:
    return Shop(tiny_base_folder)


def finish(scheduler: Scheduler) -> dict[str, Completion]:
    done: dict[str, Completion] = {}
    while scheduler.busy:
        done.update((completion.job_id, completion) for completion in scheduler.step())
    return done


def same(one: Completion, other: Completion) -> bool:
    figures = (one.value, one.text, one.tokens, one.truncated, one.computed_steps, one.forced_tokens)
    others = (
        other.value,
        other.text,
        other.tokens,
        other.truncated,
        other.computed_steps,
        other.forced_tokens,
    )
    return figures == others and math.isclose(one.confidence, other.confidence, rel_tol=1e-3, abs_tol=1e-9)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    jobs=st.lists(JOB, min_size=2, max_size=7),
    rows=st.integers(1, 4),
    wishes=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), min_size=1, max_size=4),
)
def test_mates_answer_as_if_the_cancelled_had_never_come(
    shop: Shop, jobs: list[tuple[ConstraintSpec, str, int]], rows: int, wishes: list[tuple[int, int]]
) -> None:
    """Jobs are cancelled before any of several steps: waiting ones, running ones, some that have ended."""
    scheduler = shop.scheduler(rows)
    for i, job in enumerate(jobs):
        scheduler.submit(shop.request(str(i), *job, limit=16))
    done: dict[str, Completion] = {}
    gone: set[str] = set()
    step = 0
    while scheduler.busy:
        for name in {str(which) for which, when in wishes if when == step}:
            known = int(name) < len(jobs) and name not in done and name not in gone
            assert scheduler.cancel(name) == known
            gone |= {name} if known else set()
            assert not scheduler.cancel(name)
        done.update((completion.job_id, completion) for completion in scheduler.step())
        step += 1
    assert done.keys() == {str(i) for i in range(len(jobs))} - gone
    left = [shop.request(name, *jobs[int(name)], limit=16) for name in done]
    for completion in shop.run(left, rows):
        assert same(completion, done[completion.job_id])


def test_an_unknown_waiting_running_or_ended_job(shop: Shop) -> None:
    scheduler = shop.scheduler(1)
    assert not scheduler.cancel("long")
    scheduler.submit(shop.request("long", TEXT, "tell me", -1, 500))
    scheduler.submit(shop.request("waits", TEXT, "tell me", 0, 500))
    scheduler.submit(shop.request("next", LABELS, "text", 0))
    assert scheduler.cancel("waits")
    assert not scheduler.cancel("waits")
    assert scheduler.step() == []
    assert not scheduler.cancel("wait")
    assert scheduler.cancel("long")
    assert not scheduler.cancel("long")
    assert list(finish(scheduler)) == ["next"]
    assert not scheduler.cancel("next")
    assert not scheduler.busy
    assert scheduler.step() == []


def test_the_place_is_taken_at_the_next_step_and_nothing_of_the_job_is_left_in_it(shop: Shop) -> None:
    """One place: every job that is cancelled in the middle makes room at once for the one behind it."""
    names = [f"{i}" for i in range(5)]
    last: Request = shop.request("last", RECORD, "Bo met Zoë", 1)
    (alone,) = shop.run([shop.request("last", RECORD, "Bo met Zoë", 1)])
    scheduler = shop.scheduler(1)
    for i, name in enumerate(names):
        scheduler.submit(shop.request(name, TEXT, "a long way " * (8 - i), i % 3, 500))
    scheduler.submit(last)
    for i, name in enumerate(names):
        for _ in range(i + 1):
            assert scheduler.step() == []
        assert scheduler.cancel(name)
    steps = 0
    done: list[Completion] = []
    while scheduler.busy:
        done += scheduler.step()
        steps += 1
    assert [completion.job_id for completion in done] == ["last"]
    assert steps == alone.computed_steps
    assert same(done[0], alone)


def test_a_name_may_come_back_and_the_rest_of_a_batch_goes_on(shop: Shop) -> None:
    scheduler = shop.scheduler(3)
    jobs: list[tuple[ConstraintSpec, str, int]] = [(TEXT, "one", 0), (RECORD, "Bo", 1), (TEXT, "two", 2)]
    for i, job in enumerate(jobs):
        scheduler.submit(shop.request(str(i), *job, limit=20))
    scheduler.step()
    scheduler.step()
    assert scheduler.cancel("1")
    scheduler.submit(shop.request("1", LABELS, "again", 2))
    done = finish(scheduler)
    again: list[tuple[ConstraintSpec, str, int]] = [jobs[0], (LABELS, "again", 2), jobs[2]]
    for completion in shop.run([shop.request(str(i), *job, limit=20) for i, job in enumerate(again)]):
        assert same(completion, done[completion.job_id])


def test_all_may_be_cancelled(shop: Shop) -> None:
    scheduler = shop.scheduler(2)
    for i in range(4):
        scheduler.submit(shop.request(str(i), TEXT, "tell me", i % 3, 500))
    scheduler.step()
    assert all(scheduler.cancel(str(i)) for i in range(4))
    assert not scheduler.busy
    scheduler.submit(shop.request("new", LABELS, "text", 0))
    assert list(finish(scheduler)) == ["new"]
