"""Requests made to break a service: each is told what is wrong with it, or answered; nobody else notices.

Beside and between them good jobs are asked, whose answers must be the right ones. Knows nothing of who
answers: only an address, where the tasks are those of ``fleet.workshop`` and no keys are needed.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from fleet.chaos.case import DROPPED, Case, Poison, Wire
from fleet.chaos.poison_bodies import BODIES
from fleet.chaos.poison_openai import OPENAI
from fleet.chaos.poison_requests import HEADERS, PLACES, large
from fleet.chaos.poison_wire import OPEN, WIRES, endless
from fleet.chaos.witness import Testimony, Witness
from fleet.web.settings import WebSettings

BETWEEN = 4
"""Cases between two good jobs of the same client; another client's are asked all the time."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LONGEST_REFUSAL = 4000
"""Bytes; what was sent is not sent back."""


@dataclass(frozen=True, slots=True)
class PoisonFigures:
    """What came of it."""

    cases: int
    statuses: Mapping[int, int]
    """How often each; 0 is a connection that was closed without one."""
    slowest: str
    """The case that took longest,"""
    slowest_seconds: float
    seconds: float
    """All of it."""
    good: Testimony
    """The good jobs beside."""
    failures: tuple[str, ...]
    """Each begins with the name of its case; none, if all is well."""


def cases(max_body: int = WebSettings().max_body) -> list[Case]:
    """All of them, for a service that takes bodies of so many bytes."""
    return [*BODIES, *OPENAI, *HEADERS, *PLACES, *large(max_body), *WIRES, *endless(max_body)]


def poison(address: str, chosen: Sequence[Case] | None = None, *, seconds: float = 60.0) -> PoisonFigures:
    """Send ``chosen``, or all; an answer that takes longer than ``seconds`` is none."""
    began = time.perf_counter()
    sent = cases() if chosen is None else chosen
    statuses: Counter[int] = Counter()
    failures: list[str] = []
    took: dict[str, float] = {}
    enough = threading.Event()
    with (
        httpx.Client(base_url=address, timeout=seconds) as client,
        httpx.Client(base_url=address, timeout=seconds) as good_client,
        ThreadPoolExecutor(1) as pool,
        _held_open(address),
    ):
        witness = Witness(good_client)
        company = pool.submit(witness.ask_until, enough)
        try:
            for number, each in enumerate(sent):
                start = time.perf_counter()
                status, fault = _try(client, address, each, seconds)
                took[each.name] = time.perf_counter() - start
                statuses[status] += 1
                if fault:
                    failures.append(f"{each.name}: {fault}")
                if number % BETWEEN == 0:
                    witness.ask()
        finally:
            enough.set()
        company.result()
        failures += _left_over(good_client, seconds)
    good = witness.testimony()
    slowest = max(took, key=took.__getitem__, default="")
    return PoisonFigures(
        cases=len(sent),
        statuses=dict(sorted(statuses.items())),
        slowest=slowest,
        slowest_seconds=took.get(slowest, 0.0),
        seconds=time.perf_counter() - began,
        good=good,
        failures=(*failures, *good.said),
    )


def _try(client: httpx.Client, address: str, each: Case, seconds: float) -> tuple[int, str]:
    """The status, and what is wrong with it or with what was said; nothing if all is well."""
    try:
        if isinstance(each, Wire):
            status, said = _talk(address, each, seconds), ""
        else:
            response = _ask(client, each)
            status, said = response.status_code, _fault(each, response)
    except (httpx.HTTPError, TimeoutError) as error:
        return DROPPED, f"no answer: {type(error).__name__} {error}"
    if status not in each.statuses:
        return status, f"answered with {status}, not {' or '.join(map(str, each.statuses))} {said}"
    return status, said


def _ask(client: httpx.Client, each: Poison) -> httpx.Response:
    content = each.content if each.declared else iter([each.content])
    return client.request(each.method, each.path, content=content, headers=list(each.headers))


def _fault(each: Poison, response: httpx.Response) -> str:
    if response.status_code < 400:
        return ""
    if response.headers.get("content-type") != "application/json":
        return f"the refusal is no JSON: {response.text[:200]}"
    if len(response.content) > LONGEST_REFUSAL:
        return f"the refusal has {len(response.content):,} bytes"
    message = _message(response)
    if message is None:
        return f"the refusal has another shape: {response.text[:200]}"
    return "" if each.said in message else f"it says nothing of {each.said!r}: {message[:200]}"


def _message(response: httpx.Response) -> str | None:
    """What a refusal says, in the one shape of errors or as a job's own result."""
    try:
        error = response.json()["error"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return None
    said = error if isinstance(error, str) else error.get("message")
    return str(said) if said else None


def _talk(address: str, each: Wire, seconds: float) -> int:
    """The status that came, if one did. Raises ``TimeoutError`` when nothing comes and nobody hangs up."""
    with _connected(address, seconds) as line:
        got = b""
        # Who is dropped while it sends may have been told why before.
        with contextlib.suppress(ConnectionError):
            for piece in each.pieces:
                line.sendall(piece)
                if select.select([line], [], [], 0)[0] and not _may_go_on(line):
                    break
            if each.then == "leaves":
                return DROPPED
            if each.then == "ends":
                line.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while chunk := line.recv(65536):
                got += chunk
    got = got.removeprefix(CONTINUE)  # it may also come when all was sent
    return int(got.split(b" ", 2)[1]) if got.startswith(b"HTTP/") else DROPPED


def _may_go_on(line: socket.socket) -> bool:
    """Whether what has come is only the leave to send the rest, which is then taken off the line."""
    if line.recv(len(CONTINUE), socket.MSG_PEEK) != CONTINUE:
        return False
    line.recv(len(CONTINUE))
    return True


def _connected(address: str, seconds: float) -> socket.socket:
    url = urlsplit(address)
    return socket.create_connection((url.hostname or "", url.port or 80), seconds)


@contextlib.contextmanager
def _held_open(address: str) -> Iterator[None]:
    """Requests that were begun and get no further."""
    with contextlib.ExitStack() as lines:
        for begun in OPEN:
            lines.enter_context(_connected(address, 60.0)).sendall(begun)
        yield


def _left_over(client: httpx.Client, seconds: float) -> list[str]:
    """Whatever the service is still busy with, or has turned away, once all is over."""

    def waiting() -> int:
        return int(client.get("/v1/experts").raise_for_status().json()["waiting"])

    retrying = Retrying(
        retry=retry_if_result(bool),
        stop=stop_after_delay(seconds),
        wait=wait_fixed(0.05),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    left = retrying(waiting)
    faults = [f"afterwards: {left} jobs wait for ever"] if left else []
    experts = client.get("/v1/experts").json()["experts"]
    return faults + [f"afterwards: {e['task']} may not answer: {e['reason']}" for e in experts if e["reason"]]
