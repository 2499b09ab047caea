"""What listens: a server in the loop that runs, on a socket that outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from fleet.cluster.keeper import SocketKeeper, borrowed, listening
from fleet.cluster.listener import Listener
from fleet.errors import ClusterError

HOST = "127.0.0.1"
SECONDS = 30.0


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Named:
    """Says its name, when it may."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = asyncio.Event()
        self.may = asyncio.Event()
        self.may.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        await self.may.wait()
        await PlainTextResponse(self.name)(scope, receive, send)


async def asked(port: int) -> str:
    async with httpx.AsyncClient(timeout=SECONDS) as client:
        return (await client.get(f"http://{HOST}:{port}/")).text


def test_who_comes_while_nobody_answers_waits_for_the_next_one(port: int) -> None:
    """Else every restart of an ingress is a time of refusals."""

    async def told() -> list[str]:
        keeper = SocketKeeper(listening(HOST, port))
        first = Listener(Named("first"))
        await first.start(borrowed(keeper.path))
        said = [await asked(port)]
        await first.stop()
        assert not first.running
        waiting = [asyncio.create_task(asked(port)) for _ in range(20)]
        await asyncio.sleep(0.3)
        assert not any(each.done() for each in waiting)
        second = Listener(Named("second"))
        await second.start(borrowed(keeper.path))
        said += await asyncio.gather(*waiting)
        await second.stop()
        keeper.close()
        return said

    assert asyncio.run(told()) == ["first", *["second"] * 20]


def test_what_is_being_answered_at_the_end_is_answered(port: int) -> None:
    async def told() -> tuple[str, bool]:
        keeper = SocketKeeper(listening(HOST, port))
        slow = Named("slow")
        slow.may.clear()
        listener = Listener(slow)
        await listener.start(borrowed(keeper.path))
        asking = asyncio.create_task(asked(port))
        await slow.asked.wait()
        stopping = asyncio.create_task(listener.stop())
        await asyncio.sleep(0.2)
        ran = listener.running
        slow.may.set()
        await stopping
        keeper.close()
        return await asking, ran

    assert asyncio.run(told()) == ("slow", True)


def test_a_server_that_does_not_start_is_not_taken_for_one(port: int) -> None:
    """Else nobody would answer, and nobody look, until health is asked after."""

    async def started() -> None:
        with socket.socket() as unbound:
            unbound.close()
            await Listener(Named("none")).start(unbound)

    with pytest.raises(OSError, match="Bad file descriptor"):
        asyncio.run(asyncio.wait_for(started(), SECONDS))


def test_a_socket_is_kept_by_whoever_has_borrowed_it(port: int) -> None:
    """When the first keeper dies, the next one has it from who answers, and nobody is refused in between."""
    first = SocketKeeper(listening(HOST, port))
    second = SocketKeeper(borrowed(first.path))
    first.close()
    third = SocketKeeper(borrowed(second.path))
    second.close()
    socket.create_connection((HOST, port), timeout=SECONDS).close()
    third.close()


def test_a_port_that_is_taken_is_named(port: int) -> None:
    with (
        socket.create_server((HOST, port)),
        pytest.raises(ClusterError, match=f"port {port} on {HOST} cannot be used .*Address already in use"),
    ):
        listening(HOST, port)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ClusterError, match=r"port 80 on 192\.0\.2\.77 cannot be used"):
        listening("192.0.2.77", 80)


def test_the_port_is_free_when_the_keeper_has_gone(port: int) -> None:
    keeper = SocketKeeper(listening(HOST, port))
    borrowed(keeper.path).close()
    place = Path(keeper.path).parent
    assert place.stat().st_mode & 0o077 == 0, "others could answer in our name"
    path = keeper.path
    del keeper
    gc.collect()
    assert not place.exists()
    with pytest.raises(ClusterError, match="not lent"):
        borrowed(path)
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        with contextlib.suppress(OSError):
            socket.create_server((HOST, port)).close()
            return
    raise AssertionError("the port is still taken")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_all_addresses_are_those_of_both_kinds(port: int) -> None:
    keeper = SocketKeeper(listening("::", port))
    for host in (HOST, "::1"):
        socket.create_connection((host, port), timeout=SECONDS).close()
    keeper.close()
