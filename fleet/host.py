"""One process that answers: base, router, champions. No cluster, no server.

The trunk runs once per job: the router reads its states and the chosen expert goes on from them.
Experts are loaded when first needed, by digest, and checked before they may answer; one that fails is
quarantined with its reason and disturbs no other. Which versions are champions is resolved once, when
the host is opened.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.engine.base import Base
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.decode import Completion, Request, Scheduler
from fleet.engine.prompt import Renderer, render_job
from fleet.engine.specs import PromptSpec, TextSpec, Weights
from fleet.engine.trunk import TrunkState, run_trunk
from fleet.engine.weights import ServedModels
from fleet.errors import FleetError, InputError, JobError, RegistryError, suggest
from fleet.job import Answer, Job, Receipt, Result
from fleet.loaded import LoadedExpert, LoadedExperts
from fleet.project import Project
from fleet.registry.store import ROUTER, Registry
from fleet.registry.version import VersionInfo
from fleet.routing.artifact import load_router
from fleet.routing.decision import Decision
from fleet.routing.explain import explain
from fleet.routing.head import TOP, Router
from fleet.stores import artifact_cache, open_base, open_registry

log = logging.getLogger(__name__)

ROUTED_TOKENS = 8192
"""Longest job that is looked at at all; an expert's own limit is usually lower."""
BATCH_JOBS = 64


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why one expert has no answer to a job."""

    reason: str
    bad_job: bool = False


@dataclass(slots=True)
class _Asked:
    """A job on its way through the stages."""

    job: Job
    fields: Mapping[str, str]
    text: str
    ids: list[int]
    state: TrunkState | None = None
    decision: Decision | None = None
    tasks: tuple[str, ...] = ()
    answers: list[Answer] = field(default_factory=list)
    failed: dict[str, _Failure] = field(default_factory=dict)
    error: str | None = None
    """Why no expert was asked at all."""
    bad_job: bool = False

    def result(self) -> Result:
        error, bad_job = self.error, self.bad_job
        chosen = None if self.decision is None else self.decision.task
        blamed = [self.failed[chosen]] if chosen in self.failed else []
        if chosen is None and not self.answers:
            blamed = list(self.failed.values())
        if blamed:
            error = "; ".join(failure.reason for failure in blamed)
            bad_job = all(failure.bad_job for failure in blamed)
        failed = {task: failure.reason for task, failure in self.failed.items()}
        return Result(self.job.id, self.decision, tuple(self.answers), error, bad_job, failed)


class Host:
    """Champions of one registry over one base. Not for concurrent use by threads."""

    def __init__(
        self,
        base: Base,
        registry: Registry,
        champions: Mapping[str, VersionInfo],
        router: Router | None,
        router_version: int | None,
        *,
        depth: int,
        cache: Path,
        router_fault: str = "there is no router yet",
        weights: Weights = "bf16",
    ) -> None:
        self.base = base
        self.weights: Weights = weights
        self._models = _served(base, weights, depth)
        self.champions = dict(champions)
        self.router = router
        self.router_version = router_version
        self.router_fault = router_fault
        self._depth = depth
        self._renderer = Renderer.of(base.tokenizer)
        self._compiler = ConstraintCompiler(base.tokenizer)
        self._loaded = LoadedExperts(base, registry, self.champions, depth=depth, cache=cache)

    @classmethod
    def open(cls, project: Project, *, weights: Weights = "bf16") -> Host:
        """The project's champions and router as they are now.

        Experts are checked with the base's own weights, whichever ``weights`` answer.

        Raises ``RegistryError`` when there is no champion at all, ``InputError`` when this base or device
        has no such weights.
        """
        registry = open_registry(project)
        champions = registry.champions()
        known_router = champions.pop(ROUTER, None)
        if not champions:
            raise RegistryError(
                "no task has a champion yet: train some (fleet train-all), or fleet promote one"
            )
        base = open_base(project)
        cache = artifact_cache(project)
        router, router_fault = None, "there is no router yet"
        if known_router is not None:
            try:
                router = load_router(registry.fetch(known_router, cache), digest=known_router.digest)
                router.check_base(base.fingerprint)
            except FleetError as error:
                # Jobs that name their task do not need it.
                router, router_fault = None, str(error)
                log.error("the router cannot be used: %s", error)
        return cls(
            base,
            registry,
            champions,
            router,
            None if known_router is None else known_router.version,
            depth=project.config.trunk_layers,
            cache=cache,
            router_fault=router_fault,
            weights=weights,
        )

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Tasks whose expert must not answer, with the reason."""
        return self._loaded.quarantined

    def answer(self, jobs: Sequence[Job], *, top: int = 1) -> list[Result]:
        """Route and answer jobs, in their order; a bad job is its own result's error.

        With ``top`` above 1 the likeliest so many experts answer from the same trunk states.
        """
        results: list[Result] = []
        for start in range(0, len(jobs), BATCH_JOBS):
            results += self._answer_batch(jobs[start : start + BATCH_JOBS], top)
        return results

    def explain(self, job: Job, *, neighbours: int = 3) -> dict[str, Any]:
        """Why the router decides on a job as it does. Raises ``JobError`` or ``RegistryError``."""
        if self.router is None:
            raise RegistryError(f"{self.router_fault}: fleet router fit")
        asked = self._ask(job)
        if asked.error:
            raise JobError(asked.error)
        (state,) = run_trunk(self._models.reader, self._depth, [asked.ids], taps=self.router.taps)
        return explain(self.router, state.means, neighbours=neighbours)

    def _answer_batch(self, jobs: Sequence[Job], top: int) -> list[Result]:
        asked = [self._ask(job) for job in jobs]
        clock = _Clock()
        going = [a for a in asked if a.error is None]
        taps = () if self.router is None else self.router.taps
        ids = [a.ids for a in going]
        for a, state in zip(going, run_trunk(self._models.reader, self._depth, ids, taps=taps), strict=True):
            a.state = state
        clock.lap("trunk")
        self._decide(going, top)
        clock.lap("route")
        self._complete([a for a in going if a.error is None], clock)
        return [a.result() for a in asked]

    def _ask(self, job: Job) -> _Asked:
        try:
            fields = job.named_fields()
            if job.task is not None and job.task not in self.champions:
                raise JobError(self._no_such_task(job.task))
            text = render_job(PromptSpec(tuple(fields) or ("text",), " "), fields)
            ids = self._renderer.job_ids(text)
            if len(ids) > ROUTED_TOKENS:
                raise JobError(f"the job has {len(ids)} tokens, at most {ROUTED_TOKENS} are read: shorten it")
        except JobError as error:
            return _Asked(job, {}, "", [], error=str(error), bad_job=True)
        return _Asked(job, fields, text, ids)

    def _no_such_task(self, task: str) -> str:
        return f"no champion for a task called {task}; {suggest(task, self.champions)}"

    def _decide(self, going: Sequence[_Asked], top: int) -> None:
        free = [a for a in going if a.job.task is None]
        for a in going:
            if a.job.task is not None:
                a.decision = Decision.forced(a.job.task)
                a.tasks = (a.job.task,)
        if free and self.router is None:
            for a in free:
                a.error = f"{self.router_fault}: name the task (--task), or fit the router (fleet router fit)"
            return
        if free and self.router is not None:
            means = [a.state.means for a in free if a.state is not None]
            for a, decision in zip(
                free, self.router.decide(means, known=self.champions, top=max(top, TOP)), strict=True
            ):
                a.decision = decision
                if decision.kind == "route" and decision.task is not None:
                    ranked = [task for task, _ in decision.scores if task != decision.task]
                    a.tasks = (decision.task, *ranked[: top - 1])
                elif decision.kind == "clarify" and top > 1:
                    a.tasks = decision.tasks[:top]

    def _complete(self, going: Sequence[_Asked], clock: _Clock) -> None:
        experts = self._loaded.load(sorted({task for a in going for task in a.tasks}))
        clock.lap("load")
        requests: list[Request] = []
        origin: list[tuple[_Asked, LoadedExpert, int]] = []
        for a in going:
            for task in a.tasks:
                if task not in experts:
                    a.failed[task] = _Failure(f"{task} is quarantined: {self.quarantined[task]}")
                    continue
                try:
                    request = self._request(a, experts[task], len(requests))
                except JobError as error:
                    a.failed[task] = _Failure(str(error), bad_job=True)
                    continue
                except ValueError as error:  # a constraint that this release does not know
                    # Its place stays taken: jobs that were asked before may be about to run.
                    self._loaded.quarantine(task, str(error))
                    a.failed[task] = _Failure(f"{task} is quarantined: {error}")
                    continue
                requests.append(request)
                origin.append((a, experts[task], len(request.state.ids)))
        scheduler = Scheduler(
            self._models.reader, self._loaded.bank, self._depth, decoder=self._models.decoder
        )
        completions = scheduler.run(requests)
        clock.lap("expert")
        for (a, expert, tokens), completion in zip(origin, completions, strict=True):
            task = expert.info.task
            if completion.error:
                self._loaded.dismiss(task, completion.error)
                a.failed[task] = _Failure(f"{task} is quarantined: {completion.error}")
            elif completion.fault:
                a.failed[task] = _Failure(f"{task}: {completion.fault}")
            else:
                a.answers.append(self._receive(a, expert, completion, tokens, clock))

    def _request(self, a: _Asked, expert: LoadedExpert, number: int) -> Request:
        spec = expert.spec
        fields = a.fields
        if len(spec.prompt.fields) == 1 and len(fields) == 1:
            # A bare text goes into the one field that there is, whatever its name.
            fields = {spec.prompt.fields[0]: next(iter(fields.values()))}
        text = render_job(spec.prompt, fields)
        state = a.state
        assert state is not None
        if text != a.text:
            ids = self._renderer.job_ids(text)
            (state,) = run_trunk(self._models.reader, self._depth, [ids])
        if len(state.ids) > spec.max_input_tokens:
            raise JobError(
                f"the job has {len(state.ids)} tokens, {spec.name} takes {spec.max_input_tokens}: "
                "shorten it, or raise serving.max_input_tokens and train again"
            )
        return Request(
            job_id=str(number),
            state=state,
            suffix=tuple(self._renderer.suffix_ids(spec.prompt.suffix)),
            constraint=self._compiler.start(spec.constraint, text),
            slot=expert.slot,
            max_output_tokens=spec.max_output_tokens,
            first_layer=spec.adapter.layers[0],
            temperature=expert.card.temperature,
            sampling=spec.constraint if isinstance(spec.constraint, TextSpec) else None,
        )

    def _receive(
        self, a: _Asked, expert: LoadedExpert, completion: Completion, tokens: int, clock: _Clock
    ) -> Answer:
        assert a.decision is not None
        receipt = Receipt(
            task=expert.info.task,
            version=expert.info.version,
            digest=expert.info.digest,
            base_fingerprint=self.base.fingerprint,
            router_version=None if a.job.task is not None else self.router_version,
            decision=a.decision.kind if a.job.task is None else "forced",
            confidence=completion.confidence,
            input_tokens=tokens,
            output_tokens=completion.tokens,
            weights=self.weights,
            milliseconds=clock.milliseconds,
        )
        return Answer(
            expert.info.task,
            completion.value,
            completion.text,
            completion.confidence,
            completion.truncated,
            receipt,
        )


def _served(base: Base, weights: Weights, depth: int) -> ServedModels:
    try:
        return ServedModels.of(base.model, weights, depth)
    except ValueError as error:
        raise InputError(f"--weights {weights}: {error}; use bf16") from error


class _Clock:
    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.milliseconds[stage] = round((now - self._last) * 1000, 2)
        self._last = now
