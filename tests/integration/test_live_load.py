"""A live host with more to do than it can: what waits, what is refused, what ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosting import SECONDS, TEXTS, Clock, answered, ask, new_host, running, three_experts
from waiting import until

from fleet.engine.decode import Completion, Scheduler
from fleet.errors import OverloadError
from fleet.job import Job, Result
from fleet.live import Limits, LiveHost
from fleet.roster import Roster
from fleet.workshop import RUSSIAN, Workshop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    return three_experts(tmp_path_factory.mktemp("fleet"), mlflow_template)


@pytest.fixture
def roster(shop: Workshop) -> Roster:
    return Roster.read(shop.registry)


@pytest.fixture
def live(shop: Workshop, roster: Roster) -> Iterator[LiveHost]:
    with running(LiveHost(new_host(shop)), roster) as live:
        yield live


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Steps wait until the event is set."""
    go_on = threading.Event()
    step = Scheduler.step

    def slow(self: Scheduler) -> list[Completion]:
        assert go_on.wait(SECONDS)
        return step(self)

    monkeypatch.setattr(Scheduler, "step", slow)
    yield go_on
    go_on.set()


def test_a_flood_on_one_expert_is_refused_and_the_others_are_served(
    shop: Workshop, roster: Roster, held: threading.Event
) -> None:
    live = LiveHost(new_host(shop), Limits(jobs=100, per_task=60))
    order: list[str] = []
    with running(live, roster):
        flood = [ask(live, Job(f"story {n}", text=TEXTS[0], task="story")) for n in range(60)]
        for future in flood:
            future.add_done_callback(lambda done: order.append("story"))
        with pytest.raises(OverloadError, match="60 jobs wait for story already") as caught:
            ask(live, Job("one more", text=TEXTS[0], task="story"))
        assert caught.value.seconds >= 1
        others = [ask(live, Job(f"mood {n}", text=TEXTS[1], task="mood")) for n in range(5)]
        for future in others:
            future.add_done_callback(lambda done: order.append("mood"))
        held.set()
        assert all(future.result(SECONDS).error is None for future in [*flood, *others])
    # 32 stories may hold every place when the first other job comes; none of the rest goes before it.
    assert [n for n, task in enumerate(order) if task == "mood"][-1] < 45


def test_jobs_of_a_file_let_those_by_that_somebody_waits_for(
    shop: Workshop, roster: Roster, held: threading.Event
) -> None:
    live = LiveHost(new_host(shop), Limits(jobs=200, per_task=120))
    order: list[str] = []
    with running(live, roster):
        bulk = [ask(live, Job(f"file {n}", text=TEXTS[0], task="story", patient=True)) for n in range(60)]
        with pytest.raises(OverloadError, match="60 jobs wait for story already"):
            ask(live, Job("one more", text=TEXTS[0], task="story", patient=True))
        others = [ask(live, Job(f"person {n}", text=TEXTS[1], task="story")) for n in range(5)]
        for future, name in [*((f, "file") for f in bulk), *((f, "person") for f in others)]:
            future.add_done_callback(lambda done, name=name: order.append(name))  # type: ignore[misc]
        held.set()
        assert all(future.result(SECONDS).error is None for future in [*bulk, *others])
    # As for the flood: it may hold every place at first; none of the rest goes before a person's job.
    assert [n for n, name in enumerate(order) if name == "person"][-1] < 50


def test_no_more_is_taken_on_than_may_wait_in_all(
    shop: Workshop, roster: Roster, held: threading.Event
) -> None:
    live = LiveHost(new_host(shop), Limits(jobs=10))
    with running(live, roster):
        taken = [ask(live, Job(str(n), text="x", task="mood")) for n in range(10)]
        with pytest.raises(OverloadError, match="10 jobs wait already"):
            ask(live, Job("one more", text="x", task="record"))
        held.set()
        assert all(future.result(SECONDS).error is None for future in taken)
        assert answered(live, Job("later", text="x", task="record")).error is None


def test_a_job_that_is_routed_to_a_full_expert_is_told_so(
    shop: Workshop, roster: Roster, held: threading.Event
) -> None:
    live = LiveHost(new_host(shop), Limits(per_task=3))
    with running(live, roster):
        free = [ask(live, Job(str(n), text=RUSSIAN[3])) for n in range(5)]
        until(lambda: sum(future.done() for future in free) == 2)
        held.set()
        results = [future.result(SECONDS) for future in free]
    assert [result.code for result in results] == [None, None, None, "overloaded", "overloaded"]
    assert "3 jobs wait for mood" in str(results[3].error)


def test_a_job_whose_time_is_over_is_told_so_and_frees_its_place(
    shop: Workshop, roster: Roster, held: threading.Event
) -> None:
    clock = Clock()
    live = LiveHost(new_host(shop), Limits(jobs=2), clock=clock)
    with running(live, roster):
        late = ask(live, Job("late", text="x", task="story"), seconds=5)
        patient = ask(live, Job("patient", text="x", task="story"), seconds=500)
        clock.now += 6
        held.set()
        assert late.result(SECONDS).code == "deadline"
        assert patient.result(SECONDS).error is None
        assert live.state().waiting == 0


def test_a_cancelled_job_is_not_answered_and_frees_its_place(
    shop: Workshop, roster: Roster, held: threading.Event
) -> None:
    live = LiveHost(new_host(shop), Limits(jobs=2))
    ended: list[Result] = []
    with running(live, roster):
        errands = [live.submit(Job(str(n), text="x", task="story"), ended.append) for n in range(2)]
        for errand in errands:
            live.cancel(errand)
        held.set()
        until(lambda: live.state().waiting == 0)
        assert answered(live, Job("next", text="x", task="mood")).error is None
    assert ended == []


def test_jobs_in_a_step_that_fails_are_told_and_the_next_ones_are_answered(
    live: LiveHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = answered(live, Job("1", text="Anna met Bo", task="story")).answers[0].text
    step = Scheduler.step
    broken = [True]

    def failing(self: Scheduler) -> list[Completion]:
        if broken.pop() if broken else False:
            raise RuntimeError("out of memory, say")
        return step(self)

    monkeypatch.setattr(Scheduler, "step", failing)
    lost = answered(live, Job("2", text="Anna met Bo", task="story"))
    assert lost.code == "failed"
    assert "send it again" in str(lost.error)
    assert answered(live, Job("3", text="Anna met Bo", task="story")).answers[0].text == wanted


def test_what_is_not_answered_when_the_host_closes_is_told_so(
    shop: Workshop, roster: Roster, held: threading.Event
) -> None:
    live = LiveHost(new_host(shop))
    live.open(roster)
    future = ask(live, Job("1", text="x", task="mood"))
    closer = threading.Thread(target=live.close)
    closer.start()
    held.set()
    closer.join(SECONDS)
    assert future.result(0).code in (None, "failed")
    with pytest.raises(OverloadError, match="closing"):
        ask(live, Job("2", text="x", task="mood"))
