"""The router on public data: accuracy, out-of-scope, budgets, size. No threshold sees a test row.

    python -m benchmarks.route_public [--parts clinc banking fleet size] [--data ../shared/data]
                                      [--semantic-router PLACE/bin/python]

- clinc: CLINC150, 150 intents as 150 tasks; beside TF-IDF of 1-2 grams with logistic regression, and beside
  the package ``semantic-router``, in the same run (``routing/clinc.py`` says who learns from which rows);
- banking: banking77 as 77 near tasks, and with a quarter of the intents left out of fitting;
- fleet: eight data sets as eight tasks, alone and beside an instruction; misroutes at three budgets;
- size: 10, 100 and 1,000 tasks: time of a decision, memory, time to add a task.

Every part is a table and a file of its own, ``route_<part>.json``, written as soon as it is measured.
``semantic-router`` wants other releases of our packages: it lives in an environment of its own, which
``--semantic-router`` names. Without one its rows are skipped and a note says how to make it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.bench import Report, bench_base
from benchmarks.routing import banking, clinc, eight, semantic, size
from benchmarks.routing.stage import Stage
from fleet.engine.base import load_base
from fleet.routing.fit import lay_ground

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
DEPTH = 6
SMOKE_ROWS = 10

PARTS: Mapping[str, tuple[str, Sequence[str], Callable[[Stage, Report], None]]] = {
    "clinc": ("CLINC150: 150 intents as 150 tasks", clinc.FILES, clinc.measure),
    "banking": ("banking77: 77 near tasks", banking.FILES, banking.measure),
    "fleet": ("Eight data sets as eight tasks", eight.FILES, eight.measure),
    "size": ("10, 100 and 1,000 tasks", size.FILES, size.measure),
}
"""Title, files, measure."""


def main(argv: Sequence[str] = ()) -> None:
    given = _parser().parse_args(argv)
    parts = [part for part in given.parts if _complete(part, given.data)]
    if not parts:
        return
    if given.semantic_router is not None and (why := semantic.find(given.semantic_router)[1]):
        raise SystemExit(f"--semantic-router: {why}")
    with bench_base(given.smoke) as folder:
        started = time.perf_counter()
        base = load_base(folder)
        cut = SMOKE_ROWS if given.smoke else None
        stage = Stage(base, lay_ground(base, DEPTH), given.data, cut, given.semantic_router, started)
        for part in parts:
            title, _, measure = PARTS[part]
            stage.say(part)
            report = Report(f"route_{part}", title, smoke=given.smoke)
            measure(stage, report)
            report.finish()


def _complete(part: str, data: Path) -> bool:
    """Whether its files are there; says which are not."""
    missing = [name for name in PARTS[part][1] if not (data / name).is_file()]
    if missing:
        print(
            f"skipped {part}: {data} has no {', '.join(missing)}; --data names the public data sets' folder"
        )
    return not missing


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public data sets")
    parser.add_argument("--semantic-router", type=Path, help="a Python that has the package semantic-router")
    parser.add_argument("--smoke", action="store_true", help="a tiny base and few rows: does it run?")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
