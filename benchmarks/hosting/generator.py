"""The clients, in a process of their own: sends what it is told when it is told, and says what came back.

An open loop sends each arrival at its time, however much is still unanswered, and latency counts from that
time, so a slow server cannot hide what it keeps waiting. Locust has no such loop: its users wait for their
answers, and once all of them do, fewer jobs arrive than were meant. A closed loop of so many clients finds
the most that a server does. aiohttp should take less of the cores that the server needs than httpx does;
Ray brings it. Knows nothing of what requests mean; imports nothing heavy.

Reads one JSON object from stdin (``Orders`` in ``load.py``), writes a line when the clock starts and one
with the replies.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import aiohttp

LEAD_SECONDS = 0.2
"""Between the start and the first arrival."""

Reply = tuple[int, int, float, float, float, int, str]
"""Arrival, request in it, when it was meant to be sent, was sent, was answered; status (0 is none), body."""


async def run(orders: Mapping[str, Any]) -> list[Reply]:
    timeout = aiohttp.ClientTimeout(total=orders["patience"])
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(orders["address"], timeout=timeout, connector=connector) as session:
        began = time.monotonic() + LEAD_SECONDS
        print(json.dumps({"began": began}), flush=True)
        if orders["clients"]:
            return await _closed(session, orders, began)
        return await _open(session, orders["arrivals"], began)


async def _open(
    session: aiohttp.ClientSession, arrivals: Sequence[Mapping[str, Any]], began: float
) -> list[Reply]:
    sending = []
    for number, arrival in enumerate(arrivals):
        at = began + arrival["at"]
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        sending.append(asyncio.create_task(_send(session, number, arrival["requests"], at)))
    return [reply for replies in await asyncio.gather(*sending) for reply in replies]


async def _closed(session: aiohttp.ClientSession, orders: Mapping[str, Any], began: float) -> list[Reply]:
    await asyncio.sleep(max(0.0, began - time.monotonic()))
    coming: Iterator[tuple[int, Any]] = iter(enumerate(orders["arrivals"]))
    replies: list[Reply] = []

    async def client() -> None:
        while time.monotonic() < began + orders["seconds"]:
            number, arrival = next(coming, (-1, None))
            if arrival is None:
                return
            replies.extend(await _send(session, number, arrival["requests"], time.monotonic()))

    await asyncio.gather(*(client() for _ in range(orders["clients"])))
    return replies


async def _send(
    session: aiohttp.ClientSession, number: int, requests: Sequence[Mapping[str, Any]], at: float
) -> list[Reply]:
    """All requests of an arrival at once."""
    calls = [_one(session, number, place, request, at) for place, request in enumerate(requests)]
    return list(await asyncio.gather(*calls))


async def _one(
    session: aiohttp.ClientSession, number: int, place: int, request: Mapping[str, Any], at: float
) -> Reply:
    sent, headers = time.monotonic(), {"Content-Type": "application/json", **request["headers"]}
    try:
        async with session.post(request["path"], data=request["body"], headers=headers) as response:
            text, status = await response.text(), response.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        text, status = f"{type(error).__name__}: {error}", 0
    return number, place, at, sent, time.monotonic(), status, text


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.load(sys.stdin)))), flush=True)
