"""One process that answers: base, router, champions. One thread; no cluster, no server.

A job passes three stages. ``take`` runs the trunk once, lets the router read its states and resolves which
versions are asked. ``start`` gives an expert its part of the work, which joins the running batch at the
next ``step``. A version that must not answer is quarantined with its reason and disturbs no other.

``answer`` does all of it for a list of jobs, and loads what they need; ``fleet.live`` does it without end.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from fleet.asking import ROUTED_TOKENS, Asking, readings_of
from fleet.checked import CheckedExpert, LoadedRouter, Profiles, check_expert, check_router
from fleet.deciding import Deciding
from fleet.demand import FormError
from fleet.engine.base import Base
from fleet.engine.decode import Completion, Scheduler
from fleet.engine.specs import Weights
from fleet.engine.weights import ServedModels
from fleet.errors import FleetError, InputError, JobError, RegistryError, suggest
from fleet.job import Answer, Job, Result
from fleet.loaded import EXPERT_BYTES, LoadedExperts
from fleet.part import Part
from fleet.profile import Profile
from fleet.project import Project
from fleet.registry.store import ROUTER, Registry
from fleet.registry.version import VersionInfo
from fleet.roster import Roster
from fleet.routing.decision import Decision
from fleet.routing.explain import explain
from fleet.routing.tally import Tally
from fleet.stores import artifact_cache, open_base, open_registry
from fleet.ticket import Ticket

log = logging.getLogger(__name__)

BATCH_JOBS = 64
ROWS = 32
"""Parts that one step takes."""


class Host:
    """Champions of one registry over one base. Not for concurrent use by threads, but for ``check``."""

    def __init__(
        self,
        base: Base,
        registry: Registry,
        *,
        depth: int,
        cache: Path,
        weights: Weights = "bf16",
        room: int = EXPERT_BYTES,
        max_tokens: int = ROUTED_TOKENS,
    ) -> None:
        """``depth`` is the number of trunk layers, ``room`` the bytes of experts kept without need.
        A job of more than ``max_tokens`` is not looked at.

        Experts are checked with the base's own weights, whichever ``weights`` answer. Raises
        ``InputError`` when this base or device has no such weights.
        """
        self.base = base
        self.weights: Weights = weights
        self.champions: dict[str, VersionInfo] = {}
        """Who is asked from now on, by task."""
        self.router: LoadedRouter | None = None
        self.router_fault = "there is no router yet"
        self.tally = Tally()
        """Of what the router decides."""
        self.experts = LoadedExperts(base, depth=depth, room=room)
        self._registry = registry
        self._cache = cache
        self._depth = depth
        self._models = _served(base, weights, depth)
        self._deciding = Deciding(base, self.tally)
        self.asking = Asking(base, self._models.reader, depth, max_tokens)
        self._faults: dict[tuple[str, str], str] = {}
        """Why versions must not answer, by what they are known by."""
        self._profiles = Profiles(registry, cache)
        self._scheduler = self.scheduler(self.experts)
        self._flying: dict[str, Part] = {}
        self._numbers = count()

    @classmethod
    def open(cls, project: Project, *, weights: Weights = "bf16", router: int | None = None) -> Host:
        """The project's champions and router as they are now, or that version of the router.

        Raises ``RegistryError`` when there is no champion at all, ``InputError`` as the constructor does or
        for a version that is not there, ``FleetError`` for one that must not decide.
        """
        registry = open_registry(project)
        roster = Roster.read(registry)
        if not roster.champions:
            raise RegistryError(
                "no task has a champion yet: train some (fleet train-all), or fleet promote one"
            )
        wished = None if router is None else registry.numbered(ROUTER, router)
        host = cls(
            open_base(project),
            registry,
            depth=project.config.trunk_layers,
            cache=artifact_cache(project),
            weights=weights,
        )
        host.champions = dict(roster.champions)
        if wished is not None:
            host.router = host.check_router(wished)
        elif roster.router is not None:
            try:
                host.router = host.check_router(roster.router)
            except FleetError as error:
                # Jobs that name their task do not need it.
                host.router_fault = str(error)
                log.error("the router cannot be used: %s", error)
        return host

    # ---- versions

    def check(self, info: VersionInfo) -> CheckedExpert:
        """Fetch and check a version; any thread may. Raises ``FleetError`` when it must not answer."""
        return check_expert(self.base, self._registry, self._cache, info)

    def check_router(self, info: VersionInfo) -> LoadedRouter:
        """Fetch and check a router; any thread may. Raises ``FleetError`` when it must not decide."""
        return check_router(self.base, self._registry, self._cache, info)

    def profile(self, task: str) -> Profile | None:
        """What the task's champion is for; any thread may ask. None if it may not answer or be read."""
        info = self.champions.get(task)
        return None if info is None or self.fault(info) is not None else self._profiles.of(info)

    def add(self, checked: CheckedExpert) -> None:
        """Give a checked expert its place; whatever was said against this very artifact is forgotten."""
        self._faults.pop((checked.card.task, checked.digest), None)
        self.experts.add(checked)
        self._scheduler.rebank(self.experts.bank)

    def quarantine(self, info: VersionInfo, reason: str) -> None:
        """No job is given to this version any more; those that it is answering go on."""
        self._faults[info.key] = reason
        if self.holds(info):
            self.experts.drop(info.digest)
        log.error("%s is quarantined: %s", info.label, reason)

    def fault(self, info: VersionInfo) -> str | None:
        """Why this version must not answer; None as far as is known."""
        return self._faults.get(info.key)

    def holds(self, info: VersionInfo) -> bool:
        """Whether it is in memory and checked as what it is: a copy of another task's expert is not."""
        return self.experts.holds(info.digest, info.task)

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Tasks whose champion must not answer, with the reason."""
        faults = {task: self.fault(info) for task, info in self.champions.items()}
        return {task: fault for task, fault in faults.items() if fault is not None}

    # ---- jobs, all at once

    def answer(self, jobs: Sequence[Job], *, top: int = 1) -> list[Result]:
        """Route and answer jobs, in their order; a bad job is its own result's error.

        With ``top`` above 1 the likeliest so many experts answer from the same trunk states.
        """
        tickets = [Ticket(job, top) for job in jobs]
        for begin in range(0, len(tickets), BATCH_JOBS):
            batch = tickets[begin : begin + BATCH_JOBS]
            for ticket in batch:
                ticket.lap("wait")
            self.take(batch)
            self._load_and_start(batch)
            while self.busy:
                self.step()
        return [ticket.result() for ticket in tickets]

    def explain(self, job: Job, *, neighbours: int = 3) -> dict[str, Any]:
        """Why the router decides on a job as it does. Raises ``JobError`` or ``RegistryError``."""
        if self.router is None:
            raise RegistryError(f"{self.router_fault}: fleet router fit")
        router = self.router.router
        ticket = Ticket(job)
        self._read(ticket)
        if ticket.refused:
            raise JobError(ticket.refused.reason)
        self.asking.run_trunk([ticket], router.taps)
        read = readings_of([ticket], router.taps)
        outline = explain(router, read, neighbours=neighbours, known=self.champions)
        return self._deciding.explain_compound(outline, ticket, router, self.champions)

    def _load_and_start(self, batch: Sequence[Ticket]) -> None:
        asked = [info for ticket in batch for info in ticket.versions.values()]
        for info in asked:
            self.experts.pin(info.digest)  # one that comes must not make another one leave that is asked too
        try:
            self._load(asked)
            for ticket in batch:
                ticket.lap("load")
                for task in ticket.versions:
                    self.start(ticket, task)
        finally:
            for info in asked:
                self.experts.unpin(info.digest)

    def _load(self, infos: Sequence[VersionInfo]) -> None:
        for info in {info.key: info for info in infos}.values():
            if self.holds(info) or self.fault(info) is not None:
                continue
            try:
                self.add(self.check(info))
            except FleetError as error:
                self.quarantine(info, str(error))

    # ---- jobs, stage by stage

    def take(self, tickets: Sequence[Ticket]) -> None:
        """Read, route, and resolve who is asked. A ticket that nobody is asked about has ended."""
        for ticket in tickets:
            self._read(ticket)
        going = [ticket for ticket in tickets if ticket.refused is None]
        taps = () if self.router is None else self.router.router.taps
        self.asking.run_trunk(going, taps)
        for ticket in going:
            ticket.lap("trunk")
        self._decide(going)
        for ticket in going:
            ticket.open = set(ticket.versions)
            ticket.lap("route")

    def start(self, ticket: Ticket, task: str) -> None:
        """Give an expert in memory its part of a job; it runs with the next step, or has failed already."""
        info = ticket.versions[task]
        fault = self.fault(info)
        expert = self.experts.get(info.digest) if self.holds(info) else None
        if fault is not None or expert is None:
            ticket.fail(task, f"{task} is quarantined: {fault or 'it is not in memory'}", "quarantined")
            return
        name = str(next(self._numbers))
        try:
            request = self.asking.request(ticket, expert, name)
        except FormError as error:
            ticket.fail(task, str(error), "other-form")
            return
        except JobError as error:
            ticket.fail(task, str(error), "bad-job")
            return
        except ValueError as error:  # a constraint that this release does not know
            self.quarantine(info, str(error))
            ticket.fail(task, f"{task} is quarantined: {error}", "quarantined")
            return
        self.experts.pin(info.digest)
        self._flying[name] = Part(ticket, task, len(request.state.ids))
        self._scheduler.submit(request)

    @property
    def depth(self) -> int:
        """Trunk layers."""
        return self._depth

    @property
    def busy(self) -> bool:
        return bool(self._flying)

    @property
    def room(self) -> int:
        """How many parts more would join the next step."""
        return self._scheduler.room

    def step(self) -> list[Ticket]:
        """One pass for everything that runs; the tickets that ended with it."""
        ended = []
        for completion in self._scheduler.step():
            part = self._flying.pop(completion.job_id)
            self._receive(part, completion)
            if part.ticket.ended:
                ended.append(part.ticket)
        return ended

    def drop(self, ticket: Ticket) -> None:
        """Nobody waits for this ticket any more: its places in the batch are free for the next step."""
        for name, part in list(self._flying.items()):
            if part.ticket is ticket:
                self._scheduler.cancel(name)
                del self._flying[name]
                self.experts.unpin(part.info.digest)

    def texts(self, tickets: Collection[Ticket]) -> dict[Ticket, str]:
        """What is certain so far of the texts that single experts are writing for these tickets."""
        wanted = {
            name: part.ticket
            for name, part in self._flying.items()
            if part.ticket in tickets and len(part.ticket.versions) == 1
        }
        return {wanted[name]: text for name, text in self._scheduler.texts(wanted).items()}

    def abandon(self) -> list[Ticket]:
        """After a step that raised: begin with an empty batch; the tickets that were in the old one."""
        lost = list(dict.fromkeys(part.ticket for part in self._flying.values()))
        for part in self._flying.values():
            self.experts.unpin(part.info.digest)
        self._flying.clear()
        self._scheduler = self.scheduler(self.experts)
        return lost

    def scheduler(self, experts: LoadedExperts, *, rows: int = ROWS) -> Scheduler:
        """An empty one over these experts, in the weights that answer here."""
        models = self._models
        return Scheduler(models.reader, experts.bank, self._depth, max_rows=rows, decoder=models.decoder)

    def _read(self, ticket: Ticket) -> None:
        job = ticket.job
        try:
            ticket.fields = job.named_fields()
            if job.forbidden:
                ticket.refuse(f"the job may not be given to {', '.join(job.forbidden)}", "forbidden")
                return
            for task in job.tasks:
                if task not in self.champions:
                    ticket.refuse(self._no_such_task(task, job), "unknown-task")
                    return
            self.asking.read(ticket)
        except JobError as error:
            ticket.refuse(str(error), "bad-job")

    def _no_such_task(self, task: str, job: Job) -> str:
        known = [name for name in self.champions if job.allowed is None or name in job.allowed]
        return f"no champion for a task called {task}; {suggest(task, known)}"

    def _decide(self, going: Sequence[Ticket]) -> None:
        for ticket in going:
            if ticket.job.tasks:
                ticket.decision = Decision.forced(*ticket.job.tasks)
                ticket.versions = {task: self.champions[task] for task in ticket.job.tasks}
        free = [ticket for ticket in going if not ticket.job.tasks]
        if self.router is None:
            for ticket in free:
                ticket.refuse(
                    f"{self.router_fault}: name the task (--task), or fit the router (fleet router fit)",
                    "no-router",
                )
            return
        self._deciding.decide(free, self.router, self.champions)

    def _receive(self, part: Part, completion: Completion) -> None:
        ticket, task, info = part.ticket, part.task, part.info
        ticket.lap("expert")
        if completion.error:
            self.quarantine(info, completion.error)
            ticket.fail(task, f"{task} is quarantined: {completion.error}", "quarantined")
        elif completion.fault:
            demand = ticket.job.demand
            limited = demand is not None and demand.max_output_tokens is not None
            ticket.fail(task, f"{task}: {completion.fault}", "bad-job" if limited else "failed")
        else:
            ticket.answer(
                Answer(
                    task,
                    completion.value,
                    completion.text,
                    completion.confidence,
                    completion.truncated,
                    part.receipt(completion, self.base.fingerprint, self.weights),
                )
            )
        self.experts.unpin(info.digest)


def _served(base: Base, weights: Weights, depth: int) -> ServedModels:
    try:
        return ServedModels.of(base.model, weights, depth)
    except ValueError as error:
        raise InputError(f"--weights {weights}: {error}; use bf16") from error
