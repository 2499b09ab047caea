"""A host that never stops: jobs join and leave at every step while versions change under it.

One thread owns the host. It reads and routes what has arrived, fills the batch from a fair queue, steps,
and hands results over; other threads submit, cancel, and say which versions are wanted. Knows nothing of
networks or of where a roster comes from.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from fleet.errors import OverloadError
from fleet.fair import FairQueue
from fleet.following import ChallengerStanding, Follower, RouterStanding, Standing
from fleet.host import Host
from fleet.job import FaultCode, Job, Result
from fleet.pace import Pace
from fleet.profile import Profile
from fleet.roster import Roster
from fleet.routing.shift import Expected, expected_abstentions
from fleet.routing.tally import Decided
from fleet.shadow import Shadow
from fleet.ticket import Ticket

log = logging.getLogger(__name__)

TAKEN_AT_ONCE = 32
"""Jobs that are read and routed between two steps."""
IDLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait, in jobs."""

    jobs: int = 512
    """In all."""
    per_task: int = 128
    """For one expert."""
    seconds: float = 60.0
    """For how long a job may take that says nothing about it itself."""

    def __post_init__(self) -> None:
        if min(self.jobs, self.per_task) < 1 or not self.seconds > 0:
            raise ValueError("limits are positive")


@dataclass(slots=True, eq=False)
class Errand:
    """A ticket, and who waits for it."""

    ticket: Ticket
    on_end: Callable[[Result], None]
    on_text: Callable[[str], None] | None
    deadline: float
    cancelled: bool = False
    told: int = 0
    """Characters of its text that were handed over."""


@dataclass(frozen=True, slots=True)
class LiveState:
    """How a host is at this moment."""

    standings: tuple[Standing, ...]
    router_version: int | None
    router_fault: str
    waiting: int
    """Jobs that have come and have no result yet."""
    queued: dict[str, int]
    """Of them, by task, as far as it is known."""
    router: RouterStanding = field(default_factory=RouterStanding)
    challengers: tuple[ChallengerStanding, ...] = ()
    decided: Decided | None = None
    """What the router has decided here."""
    expected: Expected | None = None
    """Share of abstentions that its fit expects, and the range that it leaves; None if it measured none."""


class LiveHost:
    """Runs a host in a thread of its own between ``open`` and ``close``."""

    def __init__(
        self,
        host: Host,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        shadow: Shadow | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """``shadow`` is this host's; ``on_change`` is called by the host's thread when versions change."""
        self._host = host
        self._limits = limits or Limits()
        self._clock = clock
        self._woken = threading.Condition()
        self._arrived: deque[Errand] = deque()
        self._posted: deque[Callable[[], None]] = deque()
        self._errands: dict[Ticket, Errand] = {}
        """Everything that was submitted and has no result."""
        self._per_task: Counter[str] = Counter()
        """Jobs with an open part, by task."""
        self._queue: FairQueue[tuple[Errand, str]] = FairQueue()
        self._closed = False
        self._pace = Pace()
        self._shadow = shadow
        self._follower = Follower(host, self._post, clock=clock, shadow=shadow, on_change=on_change)
        self._thread = threading.Thread(target=self._run, name="fleet-host", daemon=True)

    def open(self, roster: Roster) -> None:
        """Begin with these champions; returns when jobs can be routed, experts are checked as they go."""
        self._follower.open(roster)
        self._thread.start()

    def close(self) -> None:
        """Answer nothing more: what has no result gets one that says so."""
        with self._woken:
            self._closed = True
            self._woken.notify()
        self._follower.close()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def running(self) -> bool:
        """Whether jobs are answered and champions followed still, as they are from ``open`` to ``close``."""
        return self._thread.is_alive() and self._follower.running

    @property
    def waiting(self) -> int:
        """Jobs that have come and have no result yet."""
        return len(self._errands)

    # ---- from any thread

    def submit(
        self,
        job: Job,
        on_end: Callable[[Result], None],
        *,
        top: int = 1,
        on_text: Callable[[str], None] | None = None,
        seconds: float | None = None,
    ) -> Errand:
        """Take a job on. ``on_end`` is called once, ``on_text`` with each certain piece of a free text.

        Both are called by the host's thread and must not block. ``seconds`` is how long the job may take.
        Raises ``OverloadError`` when too much waits already.
        """
        limits = self._limits
        errand = Errand(Ticket(job, top), on_end, on_text, self._clock() + (seconds or limits.seconds))
        with self._woken:
            if self._closed:
                raise OverloadError("this host is closing", 1)
            if len(self._errands) >= (most := _room(job, limits.jobs)):
                raise OverloadError(f"{most} jobs wait already, as many as may", self._pace.seconds(most))
            for task in job.tasks:
                if self._per_task[task] >= _room(job, limits.per_task):
                    raise self._too_many(job, task)
            self._per_task.update(job.tasks)
            self._errands[errand.ticket] = errand
            self._arrived.append(errand)
            self._woken.notify()
        return errand

    def cancel(self, errand: Errand) -> None:
        """Nobody waits for this job any more; ``on_end`` is not called."""
        with self._woken:
            errand.cancelled = True
        self._post(lambda: self._drop(errand))

    def follow(self, roster: Roster) -> None:
        """Want these champions and this router from now on."""
        self._follower.follow(roster)

    def profile(self, task: str) -> Profile | None:
        """What the task's champion is for; takes a moment when it is first asked."""
        return self._host.profile(task)

    def state(self) -> LiveState:
        with self._woken:
            waiting, router = len(self._errands), self._host.router
            return LiveState(
                tuple(self._follower.standings()),
                None if router is None else router.version,
                self._host.router_fault if router is None else "",
                waiting,
                dict(self._per_task),
                self._follower.router(),
                tuple(self._follower.challengers()),
                self._host.tally.decided(),
                expected_abstentions({} if router is None else router.router.metrics),
            )

    def _post(self, call: Callable[[], None]) -> None:
        with self._woken:
            self._posted.append(call)
            self._woken.notify()

    def _too_many(self, job: Job, task: str) -> OverloadError:
        limit = _room(job, self._limits.per_task)
        return OverloadError(
            f"{limit} jobs wait for {task} already, as many as may", self._pace.seconds(limit)
        )

    # ---- in the host's thread

    def _run(self) -> None:
        while True:
            with self._woken:
                if not (self._posted or self._arrived or self._host.busy or self._idling or self._closed):
                    self._woken.wait(IDLE_SECONDS)
                if self._closed:
                    break
            try:
                self._turn()
            except Exception:  # of ours or of torch: the jobs that it hit are told, the others go on
                log.exception("a step failed; its jobs are to be sent again")
                for ticket in self._host.abandon():
                    for task in list(ticket.open):
                        ticket.fail(task, "this host failed while it was answering: send it again", "failed")
                    self._end(ticket)
        for errand in list(self._errands.values()):
            self._give_up(errand, "this host is closing: send it again", "failed")

    def _turn(self) -> None:
        while self._posted:
            call = self._posted.popleft()
            try:
                call()
            except Exception:
                log.exception("the host could not do what it was told")
        self._expire()
        self._take()
        self._fill()
        for ticket in self._host.step() if self._host.busy else ():
            self._end(ticket)
        self._tell()
        if self._shadow is not None and self._idling:
            self._shadow.step()

    @property
    def _idling(self) -> bool:
        """Whether a challenger may be asked something: no job is there that it could hold up."""
        return self._shadow is not None and self._shadow.busy and not self._errands

    def _expire(self) -> None:
        now = self._clock()
        with self._woken:
            late = [errand for errand in self._errands.values() if errand.deadline <= now]
        for errand in late:
            self._give_up(errand, "the job's time is over", "deadline")

    def _take(self) -> None:
        taken: list[Errand] = []
        with self._woken:
            while self._arrived and len(taken) < TAKEN_AT_ONCE:
                errand = self._arrived.popleft()
                if errand.ticket in self._errands:
                    taken.append(errand)
        if not taken:
            return
        for errand in taken:
            errand.ticket.lap("wait")
        try:
            self._host.take([errand.ticket for errand in taken])
        except Exception:  # of ours or of torch: one job may be to blame, and the others are not
            log.exception("jobs could not be read together; each is read alone")
            taken = [errand for errand in taken if self._taken_alone(errand)]
        for errand in taken:
            self._line_up(errand)

    def _taken_alone(self, errand: Errand) -> bool:
        errand.ticket.versions = {}
        try:
            self._host.take([errand.ticket])
        except Exception:
            log.exception("a job could not be read; it is to be sent again")
            errand.ticket.versions = {}
            self._give_up(errand, "this host failed while it was reading: send it again", "failed")
            return False
        return True

    def _line_up(self, errand: Errand) -> None:
        ticket = errand.ticket
        if not ticket.job.tasks:
            for task in list(ticket.versions):
                with self._woken:
                    full = self._per_task[task] >= _room(ticket.job, self._limits.per_task)
                    self._per_task[task] += 1
                if full:
                    error = self._too_many(ticket.job, task)
                    ticket.fail(task, str(error), "overloaded", error.seconds)
        for task in sorted(ticket.open):
            info = ticket.versions[task]
            self._host.experts.pin(info.digest)  # so that it is there when its turn comes
            # Patient jobs line up beside those of the same task that somebody waits for, not before them.
            line = f"{task} (patient)" if ticket.job.patient else task
            self._queue.put(line, (errand, task), len(ticket.ids))
            if not self._host.holds(info) and self._host.fault(info) is None:
                self._follower.need(info)
        if ticket.ended:
            self._end(ticket)

    def _fill(self) -> None:
        while self._host.room and (found := self._queue.pop(self._ready)) is not None:
            errand, task = found
            ticket = errand.ticket
            ticket.lap("queue")
            try:
                self._host.start(ticket, task)
            except Exception:  # of ours; the jobs that run already have nothing to do with it
                log.exception("a job could not be started; it is to be sent again")
                ticket.fail(task, "this host failed while it was starting: send it again", "failed")
            self._host.experts.unpin(ticket.versions[task].digest)
            if ticket.ended:
                self._end(ticket)

    def _ready(self, part: tuple[Errand, str]) -> bool:
        info = part[0].ticket.versions[part[1]]
        return self._host.holds(info) or self._host.fault(info) is not None

    def _tell(self) -> None:
        with self._woken:
            listening = {e.ticket: e for e in self._errands.values() if e.on_text is not None}
        for ticket, text in self._host.texts(listening).items() if listening else ():
            errand = listening[ticket]
            if errand.on_text is not None and len(text) > errand.told:
                errand.on_text(text[errand.told :])
                errand.told = len(text)

    def _give_up(self, errand: Errand, reason: str, code: FaultCode) -> None:
        self._unqueue(errand)
        self._host.drop(errand.ticket)
        if errand.ticket.open:
            for task in list(errand.ticket.open):
                errand.ticket.fail(task, reason, code)
        else:
            errand.ticket.refuse(reason, code)
        self._end(errand.ticket)

    def _drop(self, errand: Errand) -> None:
        self._unqueue(errand)
        self._host.drop(errand.ticket)
        self._forget(errand.ticket)

    def _unqueue(self, errand: Errand) -> None:
        for _, task in self._queue.remove(lambda part: part[0] is errand):
            self._host.experts.unpin(errand.ticket.versions[task].digest)

    def _forget(self, ticket: Ticket) -> Errand | None:
        with self._woken:
            errand = self._errands.pop(ticket, None)
            if errand is not None:
                self._per_task.subtract(ticket.job.tasks or list(ticket.versions))
                self._per_task += Counter()
        return errand

    def _end(self, ticket: Ticket) -> None:
        errand = self._forget(ticket)
        if errand is None:
            return
        self._pace.ended(self._clock())
        result = ticket.result()
        with self._woken:
            if errand.cancelled:
                return
        try:
            if errand.on_text is not None and len(result.answers) == 1:
                rest = result.answers[0].text[errand.told :]
                if rest:
                    errand.on_text(rest)
            errand.on_end(result)
        except Exception:
            log.exception("nobody takes the result of job %s", result.id)
        if self._shadow is not None:
            self._shadow.offer(ticket)


def _room(job: Job, limit: int) -> int:
    """Of a limit, what a job may find taken: patient ones leave half of it to the others."""
    return max(1, limit // 2) if job.patient else limit
