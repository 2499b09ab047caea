"""Our contender: trunk, bank and scheduler as ``fleet.host`` puts them together; jobs join at any step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.serving.clients import Answered
from benchmarks.serving.workload import WORK, Job
from fleet.engine.adapters import AdapterBank
from fleet.engine.constraint import Constraint, ConstraintCompiler
from fleet.engine.decode import Completion, Request, Scheduler
from fleet.engine.specs import LoraSpec, TextSpec
from fleet.engine.trunk import run_trunk
from fleet.engine.weights import ServedModels


class _Recorded:
    """A constraint that remembers what was chosen: a completion holds its text, peers give ids."""

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint
        self.chosen: list[int] = []

    def advance(self, token: int) -> None:
        self.chosen.append(token)
        self._constraint.advance(token)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._constraint, name)


class Ours:
    """A server of one base and one bank; expert *i* is slot *i*."""

    def __init__(
        self,
        models: ServedModels,
        bank: AdapterBank,
        lora: LoraSpec,
        compiler: ConstraintCompiler,
        *,
        depth: int,
        clients: int,
    ) -> None:
        self._reader = models.reader
        self._lora = lora
        self._depth = depth
        self._compiler = compiler
        self._scheduler = Scheduler(models.reader, bank, depth, max_rows=clients, decoder=models.decoder)
        self._jobs: dict[str, tuple[Job, _Recorded]] = {}

    def send(self, jobs: Sequence[Job]) -> None:
        states = run_trunk(self._reader, self._depth, [job.ids for job in jobs])
        for job, state in zip(jobs, states, strict=True):
            work = WORK[job.kind]
            recorded = _Recorded(self._compiler.start(work.constraint, job.text))
            request = Request(
                job_id=str(job.number),
                state=state,
                suffix=job.prompt[len(job.ids) :],
                constraint=recorded,
                slot=job.expert,
                max_output_tokens=work.limit,
                first_layer=self._lora.layers[0],
                sampling=work.constraint if isinstance(work.constraint, TextSpec) else None,
            )
            self._jobs[request.job_id] = (job, recorded)
            self._scheduler.submit(request)

    def work(self) -> list[Answered]:
        return [self._answered(completion) for completion in self._scheduler.step()]

    def _answered(self, completion: Completion) -> Answered:
        if problem := completion.error or completion.fault:
            raise RuntimeError(f"job {completion.job_id} has no answer: {problem}")
        job, recorded = self._jobs.pop(completion.job_id)
        return Answered(
            job=job,
            tokens=completion.tokens,
            ids=tuple(recorded.chosen),
            choice=completion.branches[0][1] if completion.branches else None,
            steps=completion.computed_steps,
            head_rows=completion.head_rows,
        )
