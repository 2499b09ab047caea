"""Good jobs beside a drill: each has an answer, its own, of the live version. Knows nothing of drills.

The service is one of ``fleet.workshop``'s tasks, and nobody promotes anything meanwhile.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx

from fleet.chaos.case import CHAT, JOBS

RUSSIAN = "да посылка пришла да"
GOOD: tuple[Mapping[str, Any], ...] = (
    {"text": "Anna met Bo", "task": "story"},
    {"text": "Anna met Bo", "task": ["mood", "record"]},
    {"text": "hello fox", "task": "story"},
    {"text": "14 98 196 17", "task": "record"},
    {"fields": {"subject": "hello", "body": "bye"}, "task": "letter"},
    {"text": "once upon a time", "task": "story"},
    {"text": RUSSIAN},
)
"""The last one is routed."""


@dataclass(frozen=True, slots=True)
class Testimony:
    """What became of the good jobs."""

    asked: int = 0
    lost: int = 0
    """That had no answer."""
    mixed: int = 0
    """That had another job's answer, or part of it."""
    misdated: int = 0
    """Whose receipt names another version than the live one."""
    said: tuple[str, ...] = ()
    """What was wrong with each."""


class Witness:
    """Asks one good job after another; any number of threads may have it ask."""

    def __init__(self, client: httpx.Client) -> None:
        """Learns what is right while nothing else is asked: which versions are live, and their answers."""
        self._client = client
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._told = Testimony()
        self._right = [answers(client.post(JOBS, json=job).raise_for_status().json()) for job in GOOD]
        chat = {"model": "story", "messages": [{"role": "user", "content": GOOD[0]["text"]}]}
        self._chat: Mapping[str, Any] = chat
        experts = client.get("/v1/experts").raise_for_status().json()["experts"]
        self._live = {expert["task"]: (expert["version"], expert["digest"]) for expert in experts}

    def ask(self) -> None:
        """One good job, and see to its answer."""
        number = next(self._numbers)
        turn = number % (len(GOOD) + 1)
        try:
            if turn == len(GOOD):
                self._ask_as_chat()
            else:
                self._ask(f"good-{number}", turn)
        except httpx.HTTPError as error:
            self._found("lost", f"{type(error).__name__}: {error}")
        with self._lock:
            self._told = replace(self._told, asked=self._told.asked + 1)

    def ask_until(self, enough: threading.Event) -> None:
        while not enough.is_set():
            self.ask()

    def testimony(self) -> Testimony:
        with self._lock:
            return self._told

    def _ask(self, id: str, turn: int) -> None:
        response = self._client.post(JOBS, json={**GOOD[turn], "id": id})
        if response.status_code != 200:
            self._found("lost", f"{GOOD[turn]}: {response.status_code} {response.text[:200]}")
            return
        result = response.json()
        if result["id"] != id or answers(result) != self._right[turn]:
            self._found("mixed", f"{GOOD[turn]} as {id}: {result['id']} {answers(result)}")
        for answer in result["answers"]:
            self._see(answer["receipt"])

    def _ask_as_chat(self) -> None:
        response = self._client.post(CHAT, json=self._chat)
        if response.status_code != 200:
            self._found("lost", f"{CHAT}: {response.status_code} {response.text[:200]}")
            return
        reply = response.json()
        told = ("story", reply["choices"][0]["message"]["content"])
        if [told] != self._right[0]:
            self._found("mixed", f"{CHAT}: {told}")
        for origin in reply["taskfleet"]["answers"]:
            self._see(origin["receipt"])

    def _see(self, receipt: Mapping[str, Any]) -> None:
        told, live = (receipt["version"], receipt["digest"]), self._live.get(receipt["task"])
        if told != live:
            self._found("misdated", f"{receipt['task']}: the receipt says {told}, /v1/experts says {live}")

    def _found(self, kind: str, said: str) -> None:
        with self._lock:
            more = {kind: getattr(self._told, kind) + 1}
            said_all = (*self._told.said, f"a good job was {kind}: {said}")
            self._told = replace(self._told, said=said_all, **more)


def answers(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each expert's text."""
    return [(answer["task"], answer["text"]) for answer in result["answers"]]
