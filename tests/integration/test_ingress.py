"""An ingress that listens itself, with a watcher that does what a test wants."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from fleet.cluster.ingress import Door
from fleet.cluster.keeper import SocketKeeper, listening
from fleet.errors import ClusterError
from fleet.roster import Roster
from fleet.web.backend import service_state
from fleet.web.settings import WebSettings

HOST = "127.0.0.1"
SECONDS = 30.0


class FakeWatcher:
    """Answers when it may; has the socket until it is told to shut it."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = int(probe.getsockname()[1])
        self.asked, self.may = asyncio.Event(), asyncio.Event()
        self.keeper = SocketKeeper(listening(HOST, self.port))
        self.kept: list[str] = []
        self.fault: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(type(self), f"do_{name}").__get__(self))

    async def do_door(self, host: str, port: int) -> str:
        return self.keeper.path

    async def do_state(self) -> Any:
        self.asked.set()
        await self.may.wait()
        return service_state(Roster({}, None), [])

    async def do_keep_door(self, host: str, port: int, path: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.kept.append(path)

    async def do_shut_door(self) -> None:
        self.keeper.close()
        if self.fault is not None:
            raise self.fault


async def opened(watcher: FakeWatcher) -> Any:
    door = Door.__new__(Door)
    replicas = SimpleNamespace(options=lambda **_: replicas)
    # As Ray does: an actor's constructor may be a coroutine.
    await Door.__init__(door, replicas, watcher, WebSettings(), 60.0, HOST, watcher.port)  # type: ignore[misc]
    return door


async def asked(port: int) -> httpx.Response:
    async with httpx.AsyncClient(timeout=SECONDS) as client:
        return await client.get(f"http://{HOST}:{port}/v1/experts")


@pytest.mark.parametrize("fault", [None, OSError("no space left")])
def test_who_leaves_answers_what_it_has_and_takes_nothing_more(fault: Exception | None) -> None:
    async def told() -> httpx.Response:
        watcher = FakeWatcher()
        door = await opened(watcher)
        watcher.fault = fault
        asking = asyncio.create_task(asked(watcher.port))
        await watcher.asked.wait()
        leaving = asyncio.create_task(door.leave())
        await asyncio.sleep(0.5)
        with pytest.raises(httpx.ConnectError):
            await asked(watcher.port)
        assert not leaving.done()
        watcher.may.set()
        await asyncio.wait_for(leaving, SECONDS)
        await door.check_health()  # it has ended because it was told to
        return await asking

    assert asyncio.run(told()).status_code == 200


def test_what_takes_too_long_at_the_end_may_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn would say 500, and not in our words."""
    monkeypatch.setattr("fleet.cluster.listener.PARTING_SECONDS", 1)

    async def told() -> httpx.Response:
        watcher = FakeWatcher()
        door = await opened(watcher)
        asking = asyncio.create_task(asked(watcher.port))
        await watcher.asked.wait()
        await asyncio.wait_for(door.leave(), SECONDS)
        return await asking

    answer = asyncio.run(told())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "send the request again" in answer.json()["error"]["message"]


def test_its_health_is_whether_it_listens_not_whether_the_socket_is_kept() -> None:
    async def told() -> None:
        watcher = FakeWatcher()
        door = await opened(watcher)
        await door.check_health()
        assert len(watcher.kept) == 1
        watcher.fault = OSError("no space left")
        await door.check_health()
        await door._listener.stop()
        with pytest.raises(ClusterError, match="has ended"):
            await door.check_health()
        watcher.keeper.close()

    asyncio.run(asyncio.wait_for(told(), SECONDS))
