"""Compound jobs on the starter tasks: ``tests/data/compound.jsonl``, written by hand and used for nothing
else. Jobs that need two tasks or more, and hard ones with "and", lists and second sentences that need one.

    python benchmarks/route_compound.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.route_starter import outside_texts, read, share
from fleet.engine.base import Base
from fleet.engine.prompt import Renderer
from fleet.engine.trunk import TrunkState, run_trunk
from fleet.project import Project
from fleet.routing.decision import Decision
from fleet.routing.fit import fit_router
from fleet.routing.head import Router
from fleet.routing.reading import Readings
from fleet.routing.tidy import tidy
from fleet.stores import open_base

SHOWN = 100
"""Characters of a job that is shown."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a router made of some jobs."""

    decisions: list[Decision]
    microseconds: float
    """Per job, of looking for several tasks, beside the trunk and the plain decision."""
    plain_microseconds: float
    """Per job, of the plain decision."""


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    project = Project.find(arguments.root)
    tasks, evaluation = read(project)
    base = open_base(project)
    router = fit_router(base, tasks, depth=project.config.trunk_layers)
    with (project.root / "tests" / "data" / "compound.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    several = [row for row in rows if len(row["tasks"]) > 1]
    single = [row for row in rows if len(row["tasks"]) == 1]
    found = judge(base, router, [row["text"] for row in several]).decisions
    hard = judge(base, router, [row["text"] for row in single])
    plain = judge(base, router, [text for texts in evaluation.values() for text in texts])
    outside = judge(
        base, router, [t for n in ("out_of_scope", "out_of_scope_unseen") for t in outside_texts(project, n)]
    )
    compound = [decision.kind == "compound" for decision in found]
    right = [set(d.tasks) == set(row["tasks"]) for d, row in zip(found, several, strict=True)]
    called = sum(compound) + sum(d.kind == "compound" for d in hard.decisions)
    report = {
        "compound_rows": len(several),
        "recall": share(compound),
        "recall_right_set": share([c and r for c, r in zip(compound, right, strict=True)]),
        "right_set_of_found": share([r for c, r in zip(compound, right, strict=True) if c]),
        "ordinary_hard_rows": len(single),
        "false_hard": share([d.kind == "compound" for d in hard.decisions]),
        "precision": sum(compound) / called if called else float("nan"),
        "evaluation_rows": len(plain.decisions),
        "false_evaluation": share([d.kind == "compound" for d in plain.decisions]),
        "outside_rows": len(outside.decisions),
        "false_outside": share([d.kind == "compound" for d in outside.decisions]),
        "microseconds_per_job": round(plain.microseconds, 1),
        "plain_microseconds_per_job": round(plain.plain_microseconds, 1),
        "held_out": {name: value for name, value in router.metrics.items() if name.startswith("compound")},
    }
    for name, value in report.items():
        print(f"{name:28} {f'{value:.3f}' if isinstance(value, float) else value}")
    print("\ncompound jobs (+ right set, ~ another set, - missed), and ordinary ones called compound (!)")
    for row, decision in zip(several, found, strict=True):
        mark = (
            "-" if decision.kind != "compound" else "+" if set(decision.tasks) == set(row["tasks"]) else "~"
        )
        print(f"{mark} {'+'.join(row['tasks'])} as {decision.kind} {'+'.join(decision.tasks)}: {shown(row)}")
    for row, decision in zip(single, hard.decisions, strict=True):
        if decision.kind == "compound":
            print(f"! {row['tasks'][0]} as {'+'.join(decision.tasks)}: {shown(row)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def judge(base: Base, router: Router, texts: Sequence[str]) -> Judged:
    """One by one, as jobs come."""
    renderer = Renderer.of(base.tokenizer)
    tidied = [tidy(text) for text in texts]
    states: list[TrunkState] = [
        run_trunk(base.model, max(router.taps), [renderer.job_ids(text)], taps=router.taps)[0]
        for text in tidied
    ]
    decisions, seconds, plain_seconds = [], 0.0, 0.0
    for text, state in zip(tidied, states, strict=True):
        begun = time.perf_counter()
        (decision,) = router.decide(Readings.of([state], [text], router.taps))
        decided = time.perf_counter()
        if router.compounds is not None:
            decision, _ = router.compounds.seek(decision, text, state, router.ground.frame, renderer)
        seconds += time.perf_counter() - decided
        plain_seconds += decided - begun
        decisions.append(decision)
    return Judged(decisions, seconds / len(texts) * 1e6, plain_seconds / len(texts) * 1e6)


def shown(row: dict[str, str]) -> str:
    return " ".join(row["text"].split())[:SHOWN]


if __name__ == "__main__":
    main(sys.argv[1:])
