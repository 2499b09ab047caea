"""Quality of experts on public data sets, trained here, against published figures, TF-IDF and the bare base.

    python -m benchmarks.quality run --task tweet_emotion --rows full --set adapter.rank=8 --test
    python -m benchmarks.quality sweep learning_rate
    python -m benchmarks.quality plan --minutes 60 --go
    python -m benchmarks.quality table --markdown

A run is one configuration; its result is a file in ``benchmarks/results/quality``, and what has its file
is not run again, so the table fills over many sessions. Configurations are chosen on validation rows;
``--test`` answers the test rows too. Intervals are 95 % bootstraps over the rows. TF-IDF with
logistic regression gets the same training rows; the bare base answers under the same constraint,
with the same suffix. Data sets that are not there are skipped with a reason.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.bench import RESULTS
from benchmarks.judging import smoke, sweeps
from benchmarks.judging.configuration import METHODS, Configuration, recommended, with_settings
from benchmarks.judging.datasets import DATA_SETS, absent
from benchmarks.judging.plan import Estimator, missing
from benchmarks.judging.run import Workplace, run
from benchmarks.judging.table import markdown, read_results, table
from fleet.engine.base import resolve_base

DATA = Path(__file__).parents[1].parent / "shared" / "data"


def main(argv: Sequence[str] = ()) -> None:
    arguments = _parser().parse_args(argv or ["table"])
    if arguments.smoke:
        with tempfile.TemporaryDirectory() as folder:
            smoke.write(Path(folder))
            for line in smoke.COMMANDS:
                main([*line, *smoke.places(Path(folder))])
        return
    if arguments.what is None:
        _parser().error("say what to do: run, sweep, plan or table")
    torch.set_num_threads(arguments.threads)
    place = _workplace(arguments)
    {"run": _run, "sweep": _sweep, "plan": _plan, "table": _table}[arguments.what](arguments, place)


def _run(arguments: argparse.Namespace, place: Workplace) -> None:
    configuration = with_settings(
        recommended(arguments.task, arguments.rows, arguments.method), arguments.set
    )
    if reason := absent(place.data, arguments.task):
        print(f"skipped {arguments.task}: {reason}")
        return
    _run_within(configuration, place, arguments)


def _run_within(configuration: Configuration, place: Workplace, arguments: argparse.Namespace) -> None:
    reduced = ""
    if arguments.minutes_each is not None:
        estimator = Estimator(place, (), arguments.threads)
        configuration, reduced = estimator.within(configuration, arguments.minutes_each)
        if reduced:
            print(f"{configuration.task}: {reduced}, to train for {arguments.minutes_each:g} minutes")
    run(configuration, place, test=arguments.test, reduced=reduced)


def _sweep(arguments: argparse.Namespace, place: Workplace) -> None:
    configurations = sweeps.configurations(arguments.name, arguments.task, arguments.rows)
    if reason := absent(place.data, arguments.task):
        print(f"skipped {arguments.task}: {reason}")
        return
    results = [(configuration, run(configuration, place)) for configuration in configurations]
    lines = sweeps.comparison(arguments.name, results)
    shown = Table(*lines[0], title=f"{arguments.name} on {arguments.task}, validation rows")
    for line in lines:
        shown.add_row(
            *(f"{value:.3g}" if isinstance(value, float) else str(value) for value in line.values())
        )
    Console().print(shown)


def _plan(arguments: argparse.Namespace, place: Workplace) -> None:
    estimator = Estimator(place, read_results(place.results), arguments.threads)
    print(f"training at {estimator.tokens_per_second:.0f} tokens/s on {arguments.threads} thread(s)")
    left, chosen = arguments.minutes, []
    for configuration in missing(place):
        estimate = estimator.estimate(configuration)
        fits = estimate.minutes <= left
        if fits:
            left -= estimate.minutes
            chosen.append(configuration)
        print(
            f"{'->' if fits else '  '} {estimate.minutes:6.1f} min {estimate.tokens:9d} tokens  "
            f"{json.dumps(configuration.plain(), ensure_ascii=False)}"
        )
    if arguments.go:
        for configuration in chosen:
            run(configuration, place, test=True)


def _table(arguments: argparse.Namespace, place: Workplace) -> None:
    report = table(place, smoke=arguments.results != RESULTS / "quality")
    if arguments.markdown:
        print(markdown(report))
    else:
        report.finish()


def _workplace(arguments: argparse.Namespace) -> Workplace:
    cache = Path(os.environ.get("FLEET_CACHE") or "~/.cache/taskfleet").expanduser()
    return Workplace(
        data=arguments.data,
        results=arguments.results,
        scratch=arguments.scratch or cache / "benchmarks" / "quality",
        base_folder=resolve_base(arguments.base, cache),
        base_name=arguments.base,
        say=lambda line: print(line, flush=True),
    )


def _parser() -> argparse.ArgumentParser:
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument(
        "--data", type=Path, default=DATA, help="folder of data sets (default: ../shared/data)"
    )
    places.add_argument("--results", type=Path, default=RESULTS / "quality", help="folder of results")
    places.add_argument(
        "--scratch", type=Path, help="folder of adapters and checkpoints (default: in the cache)"
    )
    places.add_argument("--base", default="gemma-3-270m", help="base model: built-in name, folder or hub id")
    places.add_argument("--threads", type=int, default=1)

    parser = argparse.ArgumentParser("benchmarks.quality", description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a tiny base and a few rows: does it work")
    commands = parser.add_subparsers(dest="what")
    one = commands.add_parser("run", parents=[places], help="one configuration")
    one.add_argument("--task", required=True, choices=DATA_SETS)
    one.add_argument("--rows", default="full", help="full, or how many training rows")
    one.add_argument("--method", default="lora", choices=METHODS)
    one.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="as adapter.rank=8 train.epochs=3"
    )
    one.add_argument(
        "--minutes", dest="minutes_each", type=float, help="cut epochs, then rows, to train for no more"
    )
    one.add_argument("--test", action="store_true", help="answer the test rows too")
    sweep = commands.add_parser("sweep", parents=[places], help="configurations that differ in one thing")
    sweep.add_argument("name", choices=sweeps.SETTINGS)
    sweep.add_argument("--task", default="tweet_emotion", choices=DATA_SETS)
    sweep.add_argument("--rows", default="full")
    plan = commands.add_parser("plan", parents=[places], help="what is missing and how long it takes")
    plan.add_argument("--minutes", type=float, default=60.0)
    plan.add_argument("--go", action="store_true", help="run what fits, test rows too")
    shown = commands.add_parser("table", parents=[places], help="what there is")
    shown.add_argument("--markdown", action="store_true")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
