"""The host that never stops, over a tiny base: many threads, versions that change, too much work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from hosting import (
    SECONDS,
    TEXTS,
    Clock,
    answered,
    ask,
    new_host,
    running,
    said_by,
    story_versions,
    three_experts,
)
from waiting import until

from fleet.engine.decode import Completion, Scheduler
from fleet.errors import RegistryError
from fleet.host import Host
from fleet.job import Job, Result
from fleet.live import LiveHost
from fleet.project import Project
from fleet.registry.version import VersionInfo
from fleet.roster import Roster
from fleet.ticket import Ticket
from fleet.workshop import RUSSIAN, Workshop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    return three_experts(tmp_path_factory.mktemp("fleet"), mlflow_template)


@pytest.fixture(scope="module")
def versions(shop: Workshop) -> dict[int, VersionInfo]:
    return story_versions(shop)


@pytest.fixture
def roster(shop: Workshop) -> Roster:
    return Roster.read(shop.registry)


@pytest.fixture
def live(shop: Workshop, roster: Roster) -> Iterator[LiveHost]:
    with running(LiveHost(new_host(shop)), roster) as live:
        yield live


def with_champion(roster: Roster, info: VersionInfo) -> Roster:
    return Roster({**roster.champions, info.task: info}, roster.router)


def test_jobs_from_many_threads_are_answered_as_they_are_alone(shop: Workshop, live: LiveHost) -> None:
    jobs = [Job(f"{task} {text}", text=text, task=task) for task in ("mood", "record") for text in TEXTS]
    jobs += [Job(f"free {text}", text=text) for text in RUSSIAN]
    host = Host.open(Project.find(shop.place.parent))
    wanted = {result.id: result for result in host.answer(jobs)}
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda job: answered(live, job), jobs * 3))
    for result in results:
        alone = wanted[result.id]
        assert result.error is None
        assert result.decision is not None
        assert alone.decision is not None
        assert result.decision.task == alone.decision.task
        assert [a.value for a in result.answers] == [a.value for a in alone.answers]
        assert [a.receipt.digest for a in result.answers] == [a.receipt.digest for a in alone.answers]
    assert any(result.decision and result.decision.fit is not None for result in results)
    assert live.state().waiting == 0


def test_an_untidy_job_is_routed_as_if_it_were_tidy_and_answered_as_it_is(
    shop: Workshop, live: LiveHost
) -> None:
    tidied, untidy = "hello fox", "  hello   fox \n"
    free, spaced, shouted = (
        answered(live, Job(text, text=text)) for text in (tidied, untidy, untidy.upper())
    )
    assert free.decision is not None
    assert free.decision.fit is not None
    assert spaced.decision == free.decision == shouted.decision
    named = [answered(live, Job(text, text=text, task="story")) for text in (tidied, untidy)]
    assert named[0].answers[0].text != named[1].answers[0].text
    if free.decision.task == "story":
        assert spaced.answers[0].text == named[1].answers[0].text
    host = Host.open(Project.find(shop.place.parent))
    host.take([ticket := Ticket(Job("c", text=untidy))])
    assert ticket.state is not None
    assert ticket.routed is None  # which nobody needs while it stands in line
    assert host.explain(Job("a", text=untidy)) == host.explain(Job("b", text=tidied))


def test_several_tasks_answer_one_text_from_one_reading(live: LiveHost) -> None:
    result = answered(live, Job("1", text="Anna met Bo", task=("mood", "record", "story")))
    assert [answer.task for answer in result.answers] == ["mood", "record", "story"]
    assert {answer.receipt.decision for answer in result.answers} == {"forced"}


def test_every_answer_is_of_the_version_on_its_receipt_while_versions_change(
    shop: Workshop, live: LiveHost, roster: Roster, versions: dict[int, VersionInfo]
) -> None:
    said = {number: said_by(shop, info) for number, info in versions.items()}
    assert len({tuple(texts.values()) for texts in said.values()}) == len(versions)
    numbers = list(versions)
    futures: list[Future[Result]] = []
    for turn in range(60):
        live.follow(with_champion(roster, versions[numbers[turn % len(numbers)]]))
        futures += [ask(live, Job(text, text=text, task="story")) for text in TEXTS]
        wait(futures[-len(TEXTS) * 4 :], SECONDS, "FIRST_COMPLETED")
    seen = set()
    for future in futures:
        result = future.result(SECONDS)
        assert result.error is None
        (answer,) = result.answers
        assert answer.text == said[answer.receipt.version][result.id]
        assert answer.receipt.digest == versions[answer.receipt.version].digest
        seen.add(answer.receipt.version)
    assert seen == set(numbers)


def test_a_job_that_was_there_before_a_promotion_ends_on_the_old_version(
    live: LiveHost, roster: Roster, versions: dict[int, VersionInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = versions[1], versions[2]
    answered(live, Job("warm", text="a", task="story"))
    running, go_on = threading.Event(), threading.Event()
    step = Scheduler.step

    def held(self: Scheduler) -> list[Completion]:
        running.set()
        assert go_on.wait(SECONDS)
        return step(self)

    monkeypatch.setattr(Scheduler, "step", held)
    old = ask(live, Job("old", text=TEXTS[0], task="story"))
    assert running.wait(SECONDS)
    live.follow(with_champion(roster, second))
    go_on.set()
    until(lambda: live.state().standings[-1].version == second.version)
    new = answered(live, Job("new", text=TEXTS[0], task="story"))
    assert old.result(SECONDS).answers[0].receipt.version == first.version
    assert new.answers[0].receipt.version == second.version


def test_a_version_that_fails_its_check_never_goes_live_and_is_tried_again_later(
    shop: Workshop, roster: Roster
) -> None:
    def spoil(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 64)

    bad = shop.make("mood", "mood", seed=9, spoil=spoil, promote=False)
    clock = Clock()
    host = new_host(shop)
    live = LiveHost(host, clock=clock)
    checks: list[str] = []
    check = host.check

    def counted(info: VersionInfo) -> Any:
        checks.append(info.label)
        return check(info)

    host.check = counted  # type: ignore[method-assign]
    with running(live, roster):
        before = answered(live, Job("1", text="Anna met Bo", task="mood"))
        live.follow(with_champion(roster, bad))
        until(lambda: "cannot be read" in live.state().standings[0].reason)
        standing = live.state().standings[0]
        assert (standing.task, standing.wanted, standing.version) == ("mood", bad.version, 1)
        assert standing.state == "ready"
        after = answered(live, Job("2", text="Anna met Bo", task="mood"))
        assert after.answers[0].receipt.version == before.answers[0].receipt.version
        assert checks.count(bad.label) == 1
        clock.now += 6
        until(lambda: checks.count(bad.label) == 2)
        clock.now += 6  # the second pause is longer
        answered(live, Job("3", text="Anna met Bo", task="mood"))
        assert checks.count(bad.label) == 2
        live.follow(roster)
        until(lambda: live.state().standings[0].reason == "")


@pytest.mark.parametrize("failures", [2, 3])
def test_a_job_waits_for_an_expert_that_a_busy_registry_does_not_give_yet(
    shop: Workshop, roster: Roster, failures: int
) -> None:
    info = shop.make("late", "mood", seed=3, promote=False)
    clock = Clock()
    host = new_host(shop)
    live = LiveHost(host, clock=clock)
    asked: list[str] = []
    check = host.check

    def busy(wanted: VersionInfo) -> Any:
        if wanted.task == "late":
            asked.append(wanted.label)
            if len(asked) <= failures:
                raise RegistryError("the database is locked")
        return check(wanted)

    host.check = busy  # type: ignore[method-assign]
    with running(live, roster):
        live.follow(with_champion(roster, info))
        waiting = ask(live, Job("1", text="Anna met Bo", task="late"))
        for attempt, seconds in ((1, 6), (2, 11)):
            until(lambda attempt=attempt: len(asked) == attempt)
            assert answered(live, Job("2", text="Anna met Bo", task="mood")).error is None
            assert not waiting.done()
            clock.now += seconds
        result = waiting.result(SECONDS)
        assert len(asked) == 3
        if failures == 2:
            assert result.answers[0].receipt.digest == info.digest
        else:  # there is an end to patience
            assert result.code == "quarantined"
            assert "the database is locked" in str(result.error)


def test_an_expert_without_a_sound_version_is_quarantined_and_the_others_answer(
    shop: Workshop, live: LiveHost, roster: Roster
) -> None:
    bad = shop.make("fresh", "mood", card=lambda card: card.update(seal="0" * 64), promote=False)
    lost = Roster({"fresh": bad, **{k: v for k, v in roster.champions.items() if k != "mood"}}, roster.router)
    live.follow(lost)
    result = answered(live, Job("1", text="x", task="fresh"))
    assert result.code == "quarantined"
    assert "fresh is quarantined" in str(result.error)
    assert answered(live, Job("2", text="x", task="record")).error is None
    gone = answered(live, Job("3", text="x", task="mood"))
    assert gone.code == "unknown-task"
    assert gone.bad_job
    live.follow(roster)
    until(lambda: answered(live, Job("4", text="x", task="mood")).error is None)


def test_nobody_is_routed_to_an_expert_that_has_left(live: LiveHost, roster: Roster) -> None:
    free = Job("1", text=RUSSIAN[3])
    routed = answered(live, free)
    assert routed.decision is not None
    assert routed.decision.task == "mood"
    live.follow(Roster({k: v for k, v in roster.champions.items() if k != "mood"}, roster.router))
    until(lambda: answered(live, Job("2", text="x", task="mood")).code == "unknown-task")
    decision = answered(live, free).decision
    assert decision is not None
    assert decision.task != "mood"


def test_a_new_task_and_its_router_come_without_a_restart(
    shop: Workshop, live: LiveHost, roster: Roster
) -> None:
    bare = Roster({"story": roster.champions["story"]}, None)
    live.follow(bare)
    until(lambda: live.state().router_version is None)
    assert answered(live, Job("1", text=RUSSIAN[3])).code == "no-router"
    live.follow(roster)
    until(lambda: live.state().router_version is not None)
    decision = answered(live, Job("2", text=RUSSIAN[3])).decision
    assert decision is not None
    assert decision.task == "mood"


def test_more_experts_than_there_is_room_for_all_answer(shop: Workshop, roster: Roster) -> None:
    size = new_host(shop).check(roster.champions["mood"]).size
    live = LiveHost(new_host(shop, room=2 * size))
    jobs = [
        Job(f"{task} {text}", text=text, task=task) for text in TEXTS for task in ("mood", "record", "story")
    ]
    plenty = Host.open(Project.find(shop.place.parent))
    wanted = {result.id: result.answers[0].text for result in plenty.answer(jobs)}
    with running(live, roster):
        results = [answered(live, job) for job in jobs]
        results += [future.result(SECONDS) for future in [ask(live, job) for job in jobs]]
        assert {result.id: result.answers[0].text for result in results} == wanted
        assert sum(standing.state == "ready" for standing in live.state().standings) <= 2


def test_a_free_text_comes_in_pieces_that_make_the_answer(live: LiveHost) -> None:
    pieces: list[str] = []
    result = answered(live, Job("1", text="Anna met Bo", task="story"), on_text=pieces.append)
    assert "".join(pieces) == result.answers[0].text
    assert len(pieces) > 1
    whole: list[str] = []
    label = answered(live, Job("2", text="Anna met Bo", task="mood"), on_text=whole.append)
    assert whole == [label.answers[0].text]


def test_versions_may_be_checked_by_several_threads_at_once(shop: Workshop, roster: Roster) -> None:
    host = new_host(shop)
    with ThreadPoolExecutor(4) as pool:
        checked = list(pool.map(host.check, list(roster.champions.values()) * 4))
    assert {each.digest for each in checked} == {info.digest for info in roster.champions.values()}
