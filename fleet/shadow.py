"""Challengers that are asked some jobs once more, to see how they would have answered.

Nothing of it may hurt: a job's answer was handed over before its challenger is asked; one challenger at a
time, from the trunk states that are there, in a batch and a bank of its own; whoever calls ``step`` does so
when no job is there, and goes on with jobs as soon as one comes. What waits is bounded; what does not fit is
counted. A challenger that fails is quarantined, and nobody else. Knows nothing of queues or of rosters.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from fleet.checked import CheckedExpert
from fleet.comparison import Comparison, Pair, compare
from fleet.engine.decode import Completion, Scheduler
from fleet.engine.specs import TextSpec
from fleet.errors import JobError
from fleet.host import Host
from fleet.job import Answer
from fleet.loaded import LoadedExperts
from fleet.registry.version import VersionInfo
from fleet.ticket import Ticket

log = logging.getLogger(__name__)

PENDING = 8
"""Jobs that may wait for their challenger; each holds its trunk states."""
ROOM = 512 * 2**20
"""Bytes of challengers in memory, beside the champions'."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """A job that a champion has answered, and who is to be asked too."""

    ticket: Ticket
    answer: Answer
    challenger: VersionInfo

    @property
    def pair(self) -> Pair:
        receipt, info = self.answer.receipt, self.challenger
        return Pair(info.task, (receipt.version, receipt.digest), (info.version, info.digest))


class Shadow:
    """Belongs to its host's thread, but for ``comparisons``."""

    def __init__(
        self, host: Host, share: float, *, chance: random.Random | None = None, room: int = ROOM
    ) -> None:
        """``share`` of the jobs whose champion has a challenger is asked twice, drawn by ``chance``."""
        if not 0 < share <= 1:
            raise ValueError(f"a share is above 0 and at most 1, not {share}")
        self.challengers: dict[str, VersionInfo] = {}
        """Who is to be asked, by task."""
        self._host = host
        self._share = share
        self._chance = chance or random.Random()
        self._experts = LoadedExperts(host.base, depth=host.depth, room=room)
        self._scheduler: Scheduler = host.scheduler(self._experts, rows=1)
        self._pending: deque[_Trial] = deque()
        self._running: _Trial | None = None
        self._seconds = 0.0
        """That the running one has taken so far."""
        self._sums: dict[Pair, Comparison] = {}
        self._faults: dict[tuple[str, str], str] = {}

    def want(self, challengers: Mapping[str, VersionInfo]) -> None:
        """Ask these from now on; the others leave, with what waits for them."""
        before, self.challengers = self.challengers, dict(challengers)
        for info in before.values():
            if not self._wanted(info):
                self._faults.pop(info.key, None)
                self._leave(info)

    def add(self, info: VersionInfo, checked: CheckedExpert) -> None:
        """Give a checked challenger its place, if it is still wanted."""
        if self._wanted(info):
            self._faults.pop(info.key, None)
            self._experts.add(checked)
            if self._experts.bank is not None:
                self._scheduler.rebank(self._experts.bank)

    def checked(self, info: VersionInfo) -> CheckedExpert | None:
        """The challenger, if it is in memory: whoever becomes champion need not be checked again.

        For the host's thread; it is as it was checked until this host does something else.
        """
        return self._experts.checked(info.digest) if self.holds(info) else None

    def holds(self, info: VersionInfo) -> bool:
        return self._experts.holds(info.digest, info.task)

    @property
    def full(self) -> bool:
        """Whether one more would make another one leave."""
        return self._experts.full

    def quarantine(self, info: VersionInfo, reason: str) -> None:
        """This challenger is asked nothing more; nothing is said about it as a champion."""
        if self._wanted(info):
            self._faults[info.key] = reason
            log.error("%s is quarantined as a challenger: %s", info.label, reason)
        self._leave(info)

    def fault(self, info: VersionInfo) -> str | None:
        """Why this challenger is not asked; None as far as is known."""
        return self._faults.get(info.key)

    def comparison(self, champion: VersionInfo, challenger: VersionInfo) -> Comparison | None:
        """How the two compare; None before the first job. Any thread may ask."""
        return self._sums.get(Pair.of(champion, challenger))

    # ---- jobs

    def offer(self, ticket: Ticket) -> None:
        """A job whose answers were handed over: for each, chance decides whether the challenger is asked."""
        for task, answer in ticket.answers.items():
            info = self.challengers.get(task)
            if info is None or not self.holds(info) or answer.receipt.digest == info.digest:
                continue
            if self._chance.random() >= self._share:
                continue
            trial = _Trial(ticket, answer, info)
            if not self._current(trial):
                continue
            if len(self._pending) < PENDING:
                self._pending.append(trial)
            else:
                self._count(trial, Comparison(skipped=1))

    @property
    def busy(self) -> bool:
        return self._running is not None or bool(self._pending)

    def step(self) -> None:
        """One pass for one challenger. Never raises."""
        try:
            self._step()
        except Exception as error:  # of the artifact's, of torch's or of ours: no job may notice
            log.exception("a challenger could not be asked")
            trial = self._running
            self._abandon()
            if trial is not None:
                self.quarantine(trial.challenger, f"{type(error).__name__}: {error}")

    def _step(self) -> None:
        begun = time.perf_counter()
        if self._running is None:
            trial = self._pending.popleft()
            if not (self._current(trial) and self.holds(trial.challenger)):
                return
            self._running, self._seconds = trial, 0.0
            self._experts.pin(trial.challenger.digest)
            self._begin(trial)
            if self._running is None:
                return
        completions = self._scheduler.step()
        self._seconds += time.perf_counter() - begun
        for completion in completions:
            self._receive(self._running, completion)

    def _begin(self, trial: _Trial) -> None:
        info = trial.challenger
        expert = self._experts.get(info.digest)
        assert expert is not None
        try:
            self._scheduler.submit(self._host.asking.request(trial.ticket, expert, info.task))
        except JobError as error:
            self._end()
            self._count(trial, Comparison(asked=1, failed=1, failure=str(error)))
        except ValueError as error:  # a constraint that this release does not know
            self._end()
            self.quarantine(info, str(error))

    def _receive(self, trial: _Trial, completion: Completion) -> None:
        seconds, info = self._seconds, trial.challenger
        expert = self._experts.get(info.digest)
        self._end()
        if completion.error:
            self.quarantine(info, completion.error)
        elif completion.fault or expert is None:
            self._count(trial, Comparison(asked=1, failed=1, failure=completion.fault or "it has left"))
        else:
            one = compare(
                trial.answer.value,
                completion.value,
                free_text=isinstance(expert.spec.constraint, TextSpec),
                champion_ms=trial.answer.receipt.milliseconds.get("expert", 0.0),
                challenger_ms=seconds * 1000,
            )
            self._count(trial, one)

    def _count(self, trial: _Trial, one: Comparison) -> None:
        if self._current(trial):
            # Whoever is not champion or challenger any more is forgotten.
            kept = {
                pair: each
                for pair, each in self._sums.items()
                if pair.task != trial.pair.task or pair == trial.pair
            }
            self._sums = {**kept, trial.pair: kept.get(trial.pair, Comparison()) + one}

    def _current(self, trial: _Trial) -> bool:
        champion = self._host.champions.get(trial.challenger.task)
        return (
            champion is not None
            and self._wanted(trial.challenger)
            and trial.pair == Pair.of(champion, trial.challenger)
        )

    def _wanted(self, info: VersionInfo) -> bool:
        found = self.challengers.get(info.task)
        return found is not None and (found.version, found.key) == (info.version, info.key)

    def _leave(self, info: VersionInfo) -> None:
        self._pending = deque(trial for trial in self._pending if trial.challenger.key != info.key)
        if self._running is not None and self._running.challenger.key == info.key:
            self._scheduler.cancel(info.task)
            self._end()
        if self.holds(info):
            self._experts.drop(info.digest)

    def _end(self) -> None:
        if self._running is not None:
            self._experts.unpin(self._running.challenger.digest)
            self._running = None

    def _abandon(self) -> None:
        self._end()
        self._scheduler = self._host.scheduler(self._experts, rows=1)
