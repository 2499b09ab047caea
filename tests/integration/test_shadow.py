"""Challengers in the shadow of champions, over a tiny base: what they are asked, and what they may not do."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hosting import SECONDS, TEXTS, Clock, answered, ask, new_host, running
from waiting import until

import fleet.asking
import fleet.host
from fleet.checked import CheckedExpert
from fleet.comparison import Comparison
from fleet.engine.decode import Completion, Scheduler
from fleet.following import NO_ROOM, ChallengerStanding
from fleet.host import Host
from fleet.job import Job
from fleet.live import LiveHost
from fleet.registry.version import VersionInfo
from fleet.roster import Roster
from fleet.shadow import PENDING, Shadow
from fleet.web.backend import service_state
from fleet.workshop import EXPLOSIVE, RUSSIAN, Workshop, explode_on, open_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    made = open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)
    for kind in ("mood", "record", "story", "letter"):
        made.make(kind, kind)
    made.route({"mood": RUSSIAN, "story": TEXTS})
    return made


@pytest.fixture(scope="module")
def rivals(shop: Workshop) -> dict[str, VersionInfo]:
    """Challengers: the mood's says what its champion says, the others' something else."""
    twin = shop.make("mood", "mood", card=lambda card: card.update(data_digest="other"), promote=False)
    others = [shop.make(task, task, seed=1, promote=False) for task in ("record", "story", "letter")]
    return {info.task: info for info in (twin, *others)}


@pytest.fixture
def roster(shop: Workshop, rivals: dict[str, VersionInfo]) -> Roster:
    champions = Roster.read(shop.registry)
    return Roster(champions.champions, champions.router, rivals)


class Checks:
    """A host's checks, counted."""

    def __init__(self, host: Host) -> None:
        self.of: list[str] = []
        self._check = host.check
        host.check = self  # type: ignore[method-assign, assignment]

    def __call__(self, info: VersionInfo) -> CheckedExpert:
        self.of.append(info.label)
        return self._check(info)


@contextmanager
def shadowing(
    shop: Workshop, roster: Roster, share: float = 1.0, **options: Any
) -> Iterator[tuple[LiveHost, Host]]:
    """A live host whose challengers are all in memory."""
    host = new_host(shop)
    shadow = Shadow(host, share, chance=random.Random(0))
    with running(LiveHost(host, shadow=shadow, **options), roster) as live:
        until(lambda: settled(live, roster))
        yield live, host


def settled(live: LiveHost, roster: Roster) -> bool:
    states = [standing.state for standing in live.state().challengers]
    return len(states) == len(roster.challengers) and "waiting" not in states


def standing(live: LiveHost, task: str) -> ChallengerStanding:
    return next(each for each in live.state().challengers if each.task == task)


def compared(live: LiveHost, task: str) -> Comparison:
    return standing(live, task).comparison or Comparison()


def only(roster: Roster, *infos: VersionInfo) -> Roster:
    """With these challengers and no others."""
    return Roster(roster.champions, roster.router, {info.task: info for info in infos})


def test_both_answer_and_only_the_champion_s_answer_is_returned(shop: Workshop, roster: Roster) -> None:
    with shadowing(shop, roster) as (live, _):
        for task in ("mood", "record", "story"):
            for text in TEXTS:
                result = answered(live, Job(text, text=text, task=task))
                assert [a.receipt.version for a in result.answers] == [roster.champions[task].version]
                assert [a.receipt.digest for a in result.answers] == [roster.champions[task].digest]
            until(lambda task=task: compared(live, task).asked == len(TEXTS))  # type: ignore[misc]
        mood, record, story = (compared(live, task) for task in ("mood", "record", "story"))
        assert (mood.agreed, mood.failed, mood.texts) == (len(TEXTS), 0, 0)
        assert mood.champion_ms > 0
        assert mood.challenger_ms > 0
        assert record.fields_agreed.keys() == {"who", "code"}
        assert all(record.agreed <= agreed <= len(TEXTS) for agreed in record.fields_agreed.values())
        assert (story.agreed, story.texts) == (0, len(TEXTS))
        assert 0 <= story.alike < len(TEXTS)


def test_chance_draws_the_share(shop: Workshop, roster: Roster, rivals: dict[str, VersionInfo]) -> None:
    drawn = random.Random(0)
    expected = sum(drawn.random() < 0.3 for _ in range(40))
    with shadowing(shop, only(roster, rivals["mood"]), share=0.3) as (live, _):
        for number in range(40):
            before = compared(live, "mood").asked
            answered(live, Job(str(number), text=TEXTS[number % len(TEXTS)], task="mood"))
            until(lambda before=before: live.state().waiting == 0)  # type: ignore[misc]
            assert compared(live, "mood").asked - before <= 1
        until(lambda: compared(live, "mood").asked + compared(live, "mood").skipped == expected)
    assert 0 < expected < 40


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_is_a_share(shop: Workshop, share: float) -> None:
    with pytest.raises(ValueError, match="a share is above 0"):
        Shadow(new_host(shop), share)


def test_the_trunk_is_not_passed_again(
    shop: Workshop, roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    run_trunk = fleet.asking.run_trunk

    def counted(*args: Any, **options: Any) -> Any:
        passes.append(len(args[2]))
        return run_trunk(*args, **options)

    with shadowing(shop, roster) as (live, _):
        monkeypatch.setattr(fleet.asking, "run_trunk", counted)
        answered(live, Job("1", text=TEXTS[0], task=("mood", "story")))
        until(lambda: compared(live, "mood").asked + compared(live, "story").asked == 2)
        assert sum(passes) == 1
        # In another order than the manifest's: the champion's expert reads it anew, its challenger does not.
        answered(live, Job("2", fields={"body": "bye", "subject": "hello"}, task="letter"))
        until(lambda: compared(live, "letter").asked == 1)
        assert sum(passes) == 3
        assert compared(live, "letter").failed == 0


def test_a_challenger_is_asked_only_when_no_job_is_there_and_what_is_too_much_is_skipped(
    shop: Workshop, roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[int] = []
    step = Shadow.step
    flood = 4 * PENDING

    with shadowing(shop, roster) as (live, host):

        def watched(self: Shadow) -> None:
            waiting.append(live.state().waiting)
            assert not host.busy
            step(self)

        monkeypatch.setattr(Shadow, "step", watched)
        futures = [ask(live, Job(str(n), text=TEXTS[n % 6], task="story")) for n in range(flood)]
        assert all(future.result(SECONDS).error is None for future in futures)
        until(lambda: compared(live, "story").asked + compared(live, "story").skipped == flood)
        assert compared(live, "story").skipped > 0
        assert set(waiting) == {0}


def test_a_job_that_comes_while_a_challenger_writes_is_answered_before_it_goes_on(
    shop: Workshop, roster: Roster, rivals: dict[str, VersionInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go_on = threading.Event(), threading.Event()
    step = Shadow.step

    def held(self: Shadow) -> None:
        step(self)
        if not writing.is_set():
            writing.set()
            assert go_on.wait(SECONDS)

    with shadowing(shop, only(roster, rivals["story"])) as (live, _):
        monkeypatch.setattr(Shadow, "step", held)
        answered(live, Job("1", text=TEXTS[0], task="story"))
        assert writing.wait(SECONDS)
        futures = [ask(live, Job(str(n), text=TEXTS[0], task="mood")) for n in range(8)]
        asked: list[int] = []
        futures[-1].add_done_callback(lambda done: asked.append(compared(live, "story").asked))
        go_on.set()
        assert all(future.result(SECONDS).error is None for future in futures)
        until(lambda: compared(live, "story").asked == 1)
        assert asked == [0]


def test_a_challenger_that_fails_its_check_is_quarantined_alone_and_tried_again(
    shop: Workshop, roster: Roster
) -> None:
    bad = shop.make("mood", "mood", seed=9, card=lambda card: card.update(seal="0" * 64), promote=False)
    clock = Clock()
    with shadowing(shop, only(roster, bad), clock=clock) as (live, host):
        assert standing(live, "mood").state == "quarantined"
        assert "seal" in standing(live, "mood").reason
        checks = Checks(host)
        result = answered(live, Job("1", text=TEXTS[0], task="mood"))
        assert result.answers[0].receipt.version == 1
        assert live.state().standings[0].reason == ""
        assert checks.of == []
        clock.now += 6
        until(lambda: checks.of == [bad.label])
        # Whoever makes it champion nevertheless is told the same, and the old one goes on.
        live.follow(Roster({**roster.champions, "mood": bad}, roster.router))
        until(lambda: any("seal" in each.reason for each in live.state().standings))
        assert answered(live, Job("2", text=TEXTS[0], task="mood")).answers[0].receipt.version == 1


def test_a_challenger_promoted_while_its_check_fails_is_told_about_as_champion_at_once(
    shop: Workshop, roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = shop.make("mood", "mood", seed=10, card=lambda card: card.update(seal="0" * 64), promote=False)
    entered, promoted = threading.Event(), threading.Event()
    clock = Clock()
    with shadowing(shop, only(roster, bad), clock=clock) as (live, host):
        check = host.check

        def slow(info: VersionInfo) -> CheckedExpert:
            entered.set()
            assert promoted.wait(SECONDS)
            return check(info)

        monkeypatch.setattr(host, "check", slow)
        clock.now += 6  # the first check has failed, the second one begins
        answered(live, Job("1", text=TEXTS[0], task="mood"))
        assert entered.wait(SECONDS)
        live.follow(Roster({**roster.champions, "mood": bad}, roster.router))
        until(lambda: live._follower._wishes.roster.champions["mood"] == bad)
        promoted.set()
        until(lambda: any("seal" in each.reason for each in live.state().standings))


def test_a_challenger_that_explodes_at_work_is_quarantined_alone(shop: Workshop, roster: Roster) -> None:
    bomb = shop.make("deep", "deep", tensors=explode_on(shop.base, EXPLOSIVE), promote=False)
    sound = shop.make("deep", "deep", seed=3)
    with shadowing(shop, Roster({**roster.champions, "deep": sound}, None, {"deep": bomb})) as (live, _):
        assert answered(live, Job("1", text="Anna", task="deep")).error is None
        until(lambda: compared(live, "deep").asked == 1)
        assert answered(live, Job("2", text=EXPLOSIVE, task="deep")).error is None
        until(lambda: standing(live, "deep").state == "quarantined")
        assert "NaN" in standing(live, "deep").reason
        assert answered(live, Job("3", text=EXPLOSIVE, task="deep")).error is None
        assert all(each.state != "quarantined" for each in live.state().standings)


def test_whatever_a_challenger_raises_is_its_own_affair(
    shop: Workshop, roster: Roster, rivals: dict[str, VersionInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Scheduler.step
    with shadowing(shop, roster) as (live, _):

        def breaking(self: Scheduler) -> list[Completion]:
            if self._max_rows == 1:
                raise RuntimeError("torch has had enough")
            return step(self)

        monkeypatch.setattr(Scheduler, "step", breaking)
        assert answered(live, Job("1", text=TEXTS[0], task="mood")).error is None
        until(lambda: standing(live, "mood").reason == "RuntimeError: torch has had enough")
        monkeypatch.setattr(Scheduler, "step", step)
        assert answered(live, Job("2", text=TEXTS[0], task="story")).error is None
        until(lambda: compared(live, "story").asked == 1)
        assert standing(live, "mood").state == "quarantined"


def test_a_challenger_with_other_fields_fails_jobs_and_says_which(shop: Workshop, roster: Roster) -> None:
    other = shop.make("letter", "mood", seed=5, promote=False)
    with shadowing(shop, only(roster, other)) as (live, _):
        fields = {"subject": "hello", "body": "bye"}
        assert answered(live, Job("1", fields=fields, task="letter")).error is None
        until(lambda: compared(live, "letter").asked == 1)
        assert (compared(live, "letter").failed, compared(live, "letter").agreed) == (1, 0)
        assert "field" in compared(live, "letter").failure
        assert standing(live, "letter").state == "ready"


def test_who_loses_the_alias_leaves_and_figures_are_of_one_pair_only(
    shop: Workshop, roster: Roster, rivals: dict[str, VersionInfo]
) -> None:
    with shadowing(shop, roster) as (live, host):
        answered(live, Job("1", text=TEXTS[0], task="story"))
        until(lambda: compared(live, "story").asked == 1)
        live.follow(only(roster, rivals["mood"]))
        until(lambda: [each.task for each in live.state().challengers] == ["mood"])
        answered(live, Job("2", text=TEXTS[0], task=("story", "mood")))
        until(lambda: compared(live, "mood").asked == 1)
        # Another champion: what was counted says nothing about it.
        newer = shop.make("mood", "mood", seed=4, promote=False)
        live.follow(Roster({**roster.champions, "mood": newer}, roster.router, rivals))
        until(lambda: host.champions["mood"].version == newer.version)
        assert standing(live, "mood").comparison is None
        until(lambda: settled(live, roster))
        answered(live, Job("3", text=TEXTS[0], task="mood"))
        until(lambda: compared(live, "mood").asked == 1)


def test_a_challenger_that_becomes_champion_answers_without_another_check(
    shop: Workshop, roster: Roster, rivals: dict[str, VersionInfo]
) -> None:
    with shadowing(shop, roster) as (live, host):
        checks = Checks(host)
        before = roster.champions["story"]
        live.follow(
            Roster({**roster.champions, "story": rivals["story"]}, roster.router, {**rivals, "story": before})
        )
        until(lambda: host.champions["story"].version == rivals["story"].version)
        result = answered(live, Job("1", text=TEXTS[0], task="story"))
        assert result.answers[0].receipt.digest == rivals["story"].digest
        assert rivals["story"].label not in checks.of
        # The two have changed places.
        until(lambda: standing(live, "story").state == "ready")
        answered(live, Job("2", text=TEXTS[0], task="story"))
        until(lambda: compared(live, "story").asked == 1)
        assert standing(live, "story").version == before.version


def test_challengers_take_nothing_of_the_champions_room(
    shop: Workshop, roster: Roster, rivals: dict[str, VersionInfo]
) -> None:
    with shadowing(shop, roster) as (live, host):
        answered(live, Job("1", text=TEXTS[0], task=("mood", "record", "story")))
        assert host.experts.bank is not None
        until(lambda: compared(live, "story").asked == 1)
        assert not any(host.holds(info) for info in rivals.values())


def test_a_challenger_for_which_there_is_no_room_waits_and_says_so(
    shop: Workshop, roster: Roster, rivals: dict[str, VersionInfo]
) -> None:
    host = new_host(shop)
    two = only(roster, rivals["mood"], rivals["story"])
    size = host.check(rivals["mood"]).size
    shadow = Shadow(host, 1.0, chance=random.Random(0), room=size)
    with running(LiveHost(host, shadow=shadow), two) as live:
        until(lambda: {each.reason for each in live.state().challengers} == {"", NO_ROOM})
        (waits,) = (each for each in live.state().challengers if each.reason)
        (asked,) = (each for each in live.state().challengers if not each.reason)
        assert (waits.state, asked.state) == ("waiting", "ready")
        shown = service_state(two, [live.state()])
        told = {e.task: e.challenger for e in shown.experts if e.challenger is not None}
        assert told[waits.task].reason == NO_ROOM
        # The other one goes, and there is room.
        live.follow(only(roster, rivals[waits.task]))
        until(lambda: [(each.state, each.reason) for each in live.state().challengers] == [("ready", "")])


def test_a_roster_tells_challengers_apart_and_reads_what_was_kept_before_there_were_any(
    shop: Workshop, roster: Roster, tmp_path: Path
) -> None:
    bare = Roster(roster.champions, roster.router)
    assert len({roster.name, bare.name, only(roster, next(iter(roster.challengers.values()))).name}) == 3
    place = tmp_path / "roster.json"
    roster.write(place)
    assert Roster.kept(place) == roster
    bare.write(place)
    earlier = place.read_text().replace(',"challengers":{}', "")
    assert "challengers" not in earlier
    place.write_text(earlier)
    assert Roster.kept(place) == bare


def test_the_registry_s_challengers_are_those_beside_a_champion(shop: Workshop) -> None:
    registry = shop.registry
    lonely = shop.make("lonely", "mood", promote=False)
    registry.set_alias("lonely", registry.challenger_alias, lonely.version)
    registry.set_alias("record", registry.challenger_alias, 1)  # which is champion
    newer = shop.make("letter", "letter", seed=8, promote=False)
    registry.set_alias("letter", registry.challenger_alias, newer.version)
    assert {task: info.version for task, info in Roster.read(registry).challengers.items()} == {
        "letter": newer.version
    }
    for task in ("lonely", "record", "letter"):
        registry.delete_alias(task, registry.challenger_alias)
