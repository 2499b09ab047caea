"""What routing costs: on the trunk's states that the expert goes on from, or with the job encoded apart.

Jobs of the starter classification tasks (evaluation inputs), each answered by its own task's expert from
the text to the label, in batches of 1, 8 and 64:

- task named: nobody routes; what a job costs without a router;
- shared trunk: the router reads means of the trunk's states, the expert goes on from the same states;
- encoded apart: the router encodes the job for itself, with the same layers, and the expert begins anew:
  what a router in front of the experts costs at the least.

A label costs an expert one pass, the least that any kind of task does: the shares are the largest there
are. Routing is what the trunk takes longer when its states are pooled for the router, and the decision:
reading the letters, both maps, the judgement (``Readings.of`` and ``Router.decide``). Both are timed by
themselves, since the difference of two whole jobs is mostly noise; it is shown too. A text with untidy
spaces or all in capitals takes part in the trunk's pass a second time, tidied, as in ``fleet.asking``.

The router is fitted on a part of all seven starter tasks' training inputs; it decides, and the job still
goes to its own task, so that all three contenders do the same work behind it. Experts have random adapters:
what they say does not matter here. How often the router is right is in ``route_starter``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.bench import Report, Run, bench_base, interleave
from benchmarks.route_starter import read
from benchmarks.training.course import LORA, ROOT, TINY_LORA
from fleet.engine.adapters import AdapterBank
from fleet.engine.base import Base, load_base
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.decode import Request, Scheduler
from fleet.engine.prompt import Renderer
from fleet.engine.specs import LabelSpec, LoraSpec, TaskSpec
from fleet.engine.trunk import TrunkState, run_trunk
from fleet.project import Project
from fleet.recipe import task_spec
from fleet.routing.fit import fit_router
from fleet.routing.head import Router
from fleet.routing.reading import Readings
from fleet.routing.task import RouterTask
from fleet.routing.tidy import tidy

NAMED, SHARED, APART = "task named", "shared trunk", "encoded apart"


@dataclass(frozen=True, slots=True)
class Size:
    batches: tuple[int, ...] = (1, 8, 64)
    least: int = 16
    """Jobs of one reading, at least."""
    rows: int = 128
    """Training inputs of each task that the router is fitted on."""
    repetitions: int = 9
    lora: LoraSpec = field(default_factory=lambda: LORA)


SHARE = 0.05
"""Of a classification job's time that routing may take on the shared trunk."""
SMOKE = Size((1, 2), 2, 20, 1, TINY_LORA)


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny base and few rows: does it run?")
    smoke = parser.parse_args(argv).smoke
    size = SMOKE if smoke else Size()
    report = Report("route", "Routing, and its share of a job's time", smoke=smoke)
    with bench_base(smoke) as folder:
        base = load_base(folder)
        tasks, evaluation = read(Project.find(ROOT))
        router = fit_router(base, [_cut(task, size.rows) for task in tasks], depth=size.lora.layers[0])
        desk = Desk(base, router, size.lora, evaluation)
        for batch in size.batches:
            jobs = desk.jobs(max(batch, size.least))
            calls = {
                NAMED: partial(desk.answer, jobs, batch, route=False),
                SHARED: partial(desk.answer, jobs, batch, route=True),
                APART: partial(desk.answer, jobs, batch, route=True, apart=True),
            }
            _add(report, batch, len(jobs), interleave(calls, size.repetitions))
    report.finish()


def _add(report: Report, batch: int, jobs: int, runs: dict[str, list[Run[Spent]]]) -> None:
    def milliseconds(name: str, of: Callable[[Run[Spent]], float]) -> float:
        return statistics.median(of(run) for run in runs[name]) / jobs * 1000

    whole = {name: milliseconds(name, lambda run: run.seconds) for name in runs}
    trunk = {name: milliseconds(name, lambda run: run.result.trunk) for name in runs}
    deciding = {name: milliseconds(name, lambda run: run.result.deciding) for name in runs}
    for name in runs:
        report.rows.append(
            {
                "jobs a batch": batch,
                "contender": name,
                "ms a job": whole[name],
                "ms more than named": whole[name] - whole[NAMED],
                "ms in the trunk": trunk[name],
                "ms deciding": deciding[name],
            }
        )
    routing = max(trunk[SHARED] - trunk[NAMED], 0.0) + deciding[SHARED]
    size = f"batches of {batch}"
    report.ratios[f"{size}: ms a job, encoded apart / shared trunk"] = whole[APART] / whole[SHARED]
    report.ratios[f"{size}: deciding / all of the job, shared trunk"] = deciding[SHARED] / whole[SHARED]
    report.ratios[f"{size}: pooling and deciding / all of the job, shared trunk"] = routing / whole[SHARED]
    report.aim(f"{size}: pooling and deciding / all of the job, shared trunk", at_most=SHARE)


def _cut(task: RouterTask, rows: int) -> RouterTask:
    return RouterTask(
        task.name, task.texts[:rows], task.examples, f"{task.data_digest}/{rows}", task.sources[:rows]
    )


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one reading."""

    trunk: float
    """In trunk passes,"""
    deciding: float
    """and in the router's own arithmetic."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A job that is for the expert in a slot of the bank."""

    text: str
    slot: int


class Desk:
    """Routes and answers jobs of the starter tasks that have labels."""

    def __init__(self, base: Base, router: Router, lora: LoraSpec, evaluation: dict[str, list[str]]) -> None:
        self._base = base
        self._router = router
        self._depth = lora.layers[0]
        self._renderer = Renderer.of(base.tokenizer)
        self._compiler = ConstraintCompiler(base.tokenizer)
        specs = [task_spec(manifest) for manifest in Project.find(ROOT).tasks().values()]
        self._specs: list[TaskSpec] = [spec for spec in specs if isinstance(spec.constraint, LabelSpec)]
        self._texts = [evaluation[spec.name] for spec in self._specs]
        config = base.model.config
        self._bank = AdapterBank(config, len(self._specs), lora.rank, lora.layers, dtype=base.model.dtype)
        for slot in range(len(self._specs)):
            self._bank.initialise(slot, lora, slot)

    def jobs(self, count: int) -> list[Asked]:
        """Of each task in turn."""
        turns = [divmod(number, len(self._specs)) for number in range(count)]
        return [Asked(self._texts[slot][place], slot) for place, slot in turns]

    def answer(self, jobs: Sequence[Asked], batch: int, *, route: bool, apart: bool = False) -> Spent:
        """Answer the jobs, so many at a time."""
        trunk = deciding = 0.0
        for start in range(0, len(jobs), batch):
            asked = jobs[start : start + batch]
            ids = [self._renderer.job_ids(job.text) for job in asked]
            started = time.perf_counter()
            states, routed, texts = self._read(asked, ids, route)
            trunk += time.perf_counter() - started
            if route:
                started = time.perf_counter()
                decisions = self._router.decide(Readings.of(routed, texts, self._router.taps))
                if (compounds := self._router.compounds) is not None:
                    frame = self._router.ground.frame
                    for decision, text, state in zip(decisions, texts, routed, strict=True):
                        compounds.seek(decision, text, state, frame, self._renderer)
                deciding += time.perf_counter() - started
            if apart:
                started = time.perf_counter()
                states = run_trunk(self._base.model, self._depth, ids)
                trunk += time.perf_counter() - started
            requests = []
            for number, (job, state) in enumerate(zip(asked, states, strict=True)):
                spec = self._specs[job.slot]
                requests.append(
                    Request(
                        job_id=str(number),
                        state=state,
                        suffix=tuple(self._renderer.suffix_ids(spec.prompt.suffix)),
                        constraint=self._compiler.start(spec.constraint, job.text),
                        slot=job.slot,
                        max_output_tokens=spec.max_output_tokens,
                        first_layer=self._depth,
                    )
                )
            for completion in Scheduler(self._base.model, self._bank, self._depth, max_rows=batch).run(
                requests
            ):
                if completion.error or completion.fault:
                    raise RuntimeError(completion.error or completion.fault)
        return Spent(trunk, deciding)

    def _read(
        self, asked: Sequence[Asked], ids: list[list[int]], route: bool
    ) -> tuple[list[TrunkState], list[TrunkState], list[str]]:
        """States for the experts; states and texts for the router: of a tidy text the same."""
        texts = [tidy(job.text) for job in asked] if route else []
        untidy = [n for n, text in enumerate(texts) if text != asked[n].text]
        again = [self._renderer.job_ids(texts[n]) for n in untidy]
        taps = self._router.taps if route else ()
        states = run_trunk(self._base.model, self._depth, [*ids, *again], taps=taps)
        routed = states[: len(ids)]
        for n, state in zip(untidy, states[len(ids) :], strict=True):
            routed[n] = state
        return states[: len(ids)], routed, texts


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
