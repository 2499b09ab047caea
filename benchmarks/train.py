"""Training: ours against TRL's ``SFTTrainer`` with PEFT, and a cohort of eight against eight alone.

One task: rows of a short classification task and of an extraction task, three epochs, rank 16 on layers
6-17, over the real base in bf16. Ours runs the task's recipe; TRL gets the same rows as the same ids, as
many optimiser steps, as many rows a step, and the settings that were fastest on the CPU (``--settings``
runs those that were weighed). It is shown twice: as shipped, where its loss scores every position on a CPU
(timed over three steps, for each takes many seconds), and patched to score supervised positions only, as
it does on a GPU. Ours keeps the trunk's states of an epoch for the next, so its first epoch is shown apart.
The final metric is the task's own on its evaluation rows, by our decoder for both. ``--full`` takes all
rows of both tasks, for metrics that mean more; it takes the better part of an hour.

Eight tasks: the starter tasks' rows cut to the same number and sentiment's next ones as the eighth.

Every contender is a process of its own, loaded and warmed up before the clock starts; they take turns.
Peak memory is the process's, the base included, before anything is evaluated.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.bench import Report, Run, bench_base, interleave
from benchmarks.training.contender import Contender
from benchmarks.training.course import Course, Trained
from benchmarks.training.settings import PATCHED, PEERS, SHIPPED

EIGHT = (
    *("bedtime-story", "compliance", "entities", "intent", "moderation", "order-record", "sentiment"),
    "sentiment/2",
)
WARM_ROWS = 8
SHIPPED_STEPS = 3


@dataclass(frozen=True, slots=True)
class Size:
    single: Mapping[str, int]
    """Rows of the tasks that are trained alone."""
    aims: Mapping[str, float]
    """How many times TRL's examples a second ours should reach."""
    epochs: int = 3
    scored: int = 60
    """Evaluation rows, at most."""
    eight: int = 16
    """Rows of each of the eight tasks."""
    repetitions: int = 2


DEFAULT = Size({"sentiment": 64, "order-record": 24}, {"sentiment": 2.5, "order-record": 1.5})
FULL = replace(DEFAULT, single={"sentiment": 330, "order-record": 392}, scored=1000, repetitions=1)
SMOKE = Size({"sentiment": WARM_ROWS}, {}, epochs=2, scored=4, eight=2, repetitions=1)


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny base and few rows: does it run?")
    parser.add_argument(
        "--settings", action="store_true", help="only ours and each of TRL's settings in turn"
    )
    parser.add_argument("--full", action="store_true", help="all rows of the two tasks")
    parser.add_argument("--repetitions", type=int, help="of each contender")
    arguments = parser.parse_args(argv)
    size = SMOKE if arguments.smoke else FULL if arguments.full else DEFAULT
    size = replace(size, repetitions=arguments.repetitions or size.repetitions)
    peers = [] if not find_spec("trl") else [PATCHED] if arguments.smoke else [SHIPPED, PATCHED]
    name = "train_settings" if arguments.settings else "train"
    report = Report(name, "Training, ours against TRL + PEFT", smoke=arguments.smoke)
    if not peers:
        report.notes.append("TRL is not installed (make bench installs it): ours alone")
    with bench_base(arguments.smoke) as folder:
        if arguments.settings:
            for peer in PEERS:  # in pairs: all at once would want ten gigabytes
                one_task(report, folder, "sentiment", [peer], replace(size, epochs=1, scored=0, aims={}))
        else:
            for task in size.single:
                one_task(report, folder, task, peers, size)
            eight_tasks(report, folder, size)
    report.finish()


def one_task(report: Report, folder: Path, task: str, peers: Sequence[str], size: Size) -> None:
    """Ours and the peers over the same rows; peers are told the steps that ours made of them."""
    course = Course((task,), size.single[task], size.epochs)
    warm = Course((task,), WARM_ROWS, 1, steps=1, batch_rows=WARM_ROWS)
    courses: dict[str, Course] = {}
    with ExitStack() as stack:
        contenders = _enter(stack, folder, ("ours", *peers), warm, tiny=report.smoke)

        def ours() -> Trained:
            done = contenders["ours"].train(course)
            courses.update((peer, _same_steps(course, done.steps)) for peer in peers)
            if SHIPPED in courses:
                courses[SHIPPED] = replace(courses[SHIPPED], epochs=1, steps=min(done.steps, SHIPPED_STEPS))
            return done

        def peer(name: str) -> Trained:
            return contenders[name].train(courses[name])

        calls = {"ours": ours, **{name: partial(peer, name) for name in peers}}
        runs = interleave(calls, size.repetitions, warmups=0)
        values = {
            name: each.score(course, size.scored)
            for name, each in contenders.items()
            if size.scored and courses.get(name, course).epochs == course.epochs
        }
    for name, each in runs.items():
        _add(report, task, name, courses.get(name, course), each, values.get(name))
    first = _median("first_epoch", runs["ours"]) / course.rows
    for name in peers:
        report.ratios[f"{task}: examples/s, ours / {name}"] = _each(runs[name]) / _each(runs["ours"])
        report.ratios[f"{task}: examples/s, ours in its first epoch / {name}"] = _each(runs[name]) / first
        report.ratios[f"{task}: peak memory, ours / {name}"] = _peak(runs["ours"]) / _peak(runs[name])
        if task in size.aims:
            report.aim(f"{task}: examples/s, ours / {name}", at_least=size.aims[task])
            report.aim(f"{task}: peak memory, ours / {name}", at_most=1.0)


def eight_tasks(report: Report, folder: Path, size: Size) -> None:
    course = Course(EIGHT, size.eight, 1)
    warm = Course(EIGHT[-2:], 2, 1)
    with ExitStack() as stack:
        contenders = _enter(stack, folder, ("ours", "solo"), warm, tiny=report.smoke)
        calls = {name: partial(each.train, course) for name, each in contenders.items()}
        runs = interleave(calls, size.repetitions, warmups=0)
    for name, label in (("ours", "ours, one cohort"), ("solo", "ours, one by one")):
        _add(report, "eight tasks", label, course, runs[name], None)
    ratio = "eight tasks: examples/s, one cohort / one by one"
    report.ratios[ratio] = _each(runs["solo"]) / _each(runs["ours"])
    if not report.smoke:
        report.aim(ratio, at_least=1.0)


def _enter(
    stack: ExitStack, folder: Path, names: Sequence[str], warm: Course, *, tiny: bool
) -> dict[str, Contender]:
    """The contenders' processes, each with its base loaded and a few rows trained."""
    contenders = {name: stack.enter_context(Contender(name, folder, tiny=tiny)) for name in names}
    for each in contenders.values():
        each.train(warm)
    return contenders


def _same_steps(course: Course, steps: int) -> Course:
    """The course for a trainer that is told its steps, and its rows a step."""
    return replace(course, steps=steps, batch_rows=max(1, round(course.rows * course.epochs / steps)))


def _add(
    report: Report, task: str, label: str, course: Course, runs: Sequence[Run[Trained]], value: float | None
) -> None:
    done = runs[-1].result
    whole = done.examples >= course.rows  # what stopped before the end of its first epoch has none
    report.rows.append(
        {
            "task": task,
            "trainer": label,
            "rows": course.rows * len(course.tasks),
            "epochs": course.epochs,
            "steps": done.steps,
            "examples/s": 1 / _each(runs),
            "tokens/s": done.tokens / done.examples / _each(runs),
            "1st epoch s": _median("first_epoch", runs) if whole and len(course.tasks) == 1 else None,
            "metric": value,
            "peak MiB": _peak(runs),
        }
    )


def _each(runs: Sequence[Run[Trained]]) -> float:
    """Median seconds an example."""
    return statistics.median(run.result.seconds / run.result.examples for run in runs)


def _median(field: str, runs: Sequence[Run[Trained]]) -> float:
    return float(statistics.median(getattr(run.result, field) for run in runs))


def _peak(runs: Sequence[Run[Trained]]) -> float:
    return max(run.result.peak_mib for run in runs)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
