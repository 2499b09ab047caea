"""When the watcher looks at the registry, and when it need not."""

from __future__ import annotations

import itertools
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until
from watching import Watching, two_moods

from fleet.cluster import watcher
from fleet.cluster.keeper import SocketKeeper, borrowed
from fleet.registry.pulse import Pulse
from fleet.registry.store import Registry
from fleet.roster import Roster
from fleet.workshop import Workshop

POLL = 5.0
"""So long that whoever waits for it is seen to."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    return two_moods(tmp_path_factory.mktemp("fleet"), mlflow_template)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the registry was really asked."""
    times: list[float] = []
    read = Roster.read.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Roster], registry: Registry) -> Roster:
        times.append(time.monotonic())
        found: Roster = read(cls, registry)
        return found

    monkeypatch.setattr(Roster, "read", classmethod(counted))
    return times


@pytest.fixture
def watching(shop: Workshop, looks: list[float]) -> Iterator[Watching]:
    made = Watching(shop.place.parent, poll_seconds=POLL)
    yield made
    made.close()


def set_champion(shop: Workshop, version: int) -> None:
    shop.registry.set_alias("mood", "champion", version)


def test_a_store_in_which_nothing_happens_is_not_asked(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, looks: list[float]
) -> None:
    made = Watching(shop.place.parent, poll_seconds=0.1)
    try:
        until(lambda: len(looks) >= 1)
        time.sleep(1.0)  # ten polls; what the watcher writes itself may be a look or two
        assert len(looks) <= 4
        monkeypatch.setattr(watcher, "TRUST", 2)
        seen = len(looks)
        until(lambda: len(looks) >= seen + 3)
    finally:
        made.close()


def test_a_promotion_is_seen_long_before_the_next_look_is_due(shop: Workshop, watching: Watching) -> None:
    set_champion(shop, 1)
    until(lambda: watching.roster().champions["mood"].version == 1)
    # A look has been possible for longer than it takes to feel something, so there is nothing to be seen.
    until(lambda: watching.watcher._rest() < -1.5 * POLL / watcher.PULSES)
    began = time.monotonic()
    set_champion(shop, 2)
    until(lambda: watching.roster().champions["mood"].version == 2)
    assert time.monotonic() - began < 0.6 * POLL


def test_a_store_that_is_written_all_the_time_is_asked_no_more_than_before(
    shop: Workshop, watching: Watching, looks: list[float]
) -> None:
    """Trainings write metrics many times a second."""
    ends = time.monotonic() + 1.5 * POLL
    while time.monotonic() < ends:
        shop.registry.set_tags(shop.registry.version("mood", 1), {"note": str(time.time())})
        time.sleep(0.05)
    gaps = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert len(looks) >= 2
    assert min(gaps) >= 0.9 * POLL


def test_a_look_that_took_long_puts_the_next_one_off_by_seconds_at_most(watching: Watching) -> None:
    """A server that was away for minutes is one, a thousand experts another."""
    watching.watcher._took, watching.watcher._poll = 100.0, 0.1
    assert 0 < watching.watcher._rest() <= watcher.MOST_REST_SECONDS
    watching.watcher._took = 0.0
    assert watching.watcher._rest() <= 0.1


# ---- the socket that it keeps


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10.0).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture
def ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], other.getsockname()[1]]


def test_a_watcher_that_is_new_is_lent_the_socket(
    shop: Workshop, watching: Watching, ports: list[int]
) -> None:
    address = ("127.0.0.1", ports[0])
    ingress = SocketKeeper(borrowed(watching.do(watching.watcher.door(*address))))
    later = Watching(shop.place.parent, poll_seconds=POLL)
    try:
        later.do(later.watcher.keep_door(*address, ingress.path))
        watching.do(watching.watcher.shut_door())
        ingress.close()
        assert connects(ports[0])
        borrowed(later.do(later.watcher.door(*address))).close()
        later.do(later.watcher.shut_door())
        assert not connects(ports[0])
    finally:
        later.close()


def test_another_port_is_another_socket(watching: Watching, ports: list[int]) -> None:
    for port in ports:
        watching.do(watching.watcher.door("127.0.0.1", port))
    assert [connects(port) for port in ports] == [False, True]
    watching.do(watching.watcher.shut_door())


def test_a_socket_is_lent_elsewhere_when_its_place_was_cleaned_away(
    watching: Watching, ports: list[int]
) -> None:
    path = watching.do(watching.watcher.door("127.0.0.1", ports[0]))
    shutil.rmtree(Path(path).parent)
    again = watching.do(watching.watcher.door("127.0.0.1", ports[0]))
    assert again != path
    borrowed(again).close()
    watching.do(watching.watcher.shut_door())
    assert not connects(ports[0])


# ---- what a store says about itself


def test_every_commit_of_somebody_else_is_felt_and_no_look_is(registry: Registry, tmp_path: Path) -> None:
    pulse = Pulse(registry.tracking_uri)
    beats = [pulse()]
    for _ in range(3):
        registry.champions()
        assert pulse() == beats[-1]
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None) as other:
        other.execute("CREATE TABLE note (n INTEGER)")
        for n in range(50):  # in one tick of the file system's clock, and the file never longer
            beats.append(pulse())
            other.execute("DELETE FROM note")
            other.execute("INSERT INTO note VALUES (?)", (n,))
    assert None not in beats
    assert len(set(beats)) == len(beats)
    other.close()
    pulse.close()


def test_what_cannot_be_felt_is_not_taken_for_quiet(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    pulse = Pulse(registry.tracking_uri)
    first = pulse()
    assert first is not None
    content = path.read_bytes()
    path.unlink()
    assert pulse() is None
    path.write_bytes(content)
    second = pulse()
    assert second is not None
    path.write_bytes(b"this is not a database, it is a text of some length\n" * 40)
    assert pulse() != second
    path.write_bytes(content)
    with sqlite3.connect(path, isolation_level="EXCLUSIVE") as other:
        other.execute("BEGIN EXCLUSIVE")
        assert pulse() is None
        other.execute("ROLLBACK")
    other.close()
    assert pulse() is not None
    pulse.close()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "postgresql://db/mlflow", "sqlite:///"])
def test_other_stores_are_asked_themselves(uri: str) -> None:
    assert Pulse(uri)() is None
