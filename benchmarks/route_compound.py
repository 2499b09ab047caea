"""Compound jobs on the starter tasks: ``tests/data/compound.jsonl``, written by hand and used for nothing
else. Jobs that need two tasks or more, and hard ones with "and", lists and second sentences that need one.

    python -m benchmarks.route_compound [--smoke]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.bench import Report, bench_base
from benchmarks.route_starter import SMOKE_ROWS, outside_texts, read, share
from fleet.engine.base import Base, load_base
from fleet.engine.prompt import Renderer
from fleet.engine.trunk import run_trunk
from fleet.project import Project
from fleet.routing.decision import Decision
from fleet.routing.fit import fit_router
from fleet.routing.head import Router
from fleet.routing.joining import FALSE
from fleet.routing.reading import Readings
from fleet.routing.task import RouterTask
from fleet.routing.tidy import tidy
from fleet.stores import open_base

SHOWN = 90
"""Characters of a job that is shown."""


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--smoke", action="store_true", help="a tiny base and few rows: does it run?")
    given = parser.parse_args(argv)
    project = Project.find(given.root)
    tasks, evaluation = read(project)
    report = Report("route_compound", "Jobs that need several of the starter tasks", smoke=given.smoke)
    if given.smoke:
        tasks = [replace(t, texts=t.texts[:SMOKE_ROWS], sources=t.sources[:SMOKE_ROWS]) for t in tasks]
        evaluation = {name: texts[:SMOKE_ROWS] for name, texts in evaluation.items()}
        with bench_base(smoke=True) as folder:
            measure(report, load_base(folder), project, tasks, evaluation)
    else:
        measure(report, open_base(project), project, tasks, evaluation)
    report.finish()


def measure(
    report: Report,
    base: Base,
    project: Project,
    tasks: Sequence[RouterTask],
    evaluation: dict[str, list[str]],
) -> None:
    router = fit_router(base, tasks, depth=project.config.trunk_layers)
    with (project.root / "tests" / "data" / "compound.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    outside = [t for name in ("out_of_scope", "out_of_scope_unseen") for t in outside_texts(project, name)]
    groups = {
        "need several, by hand": [(r["text"], r["tasks"]) for r in rows if len(r["tasks"]) > 1],
        "hard, need one, by hand": [(r["text"], r["tasks"]) for r in rows if len(r["tasks"]) == 1],
        "evaluation rows": [(text, [name]) for name, texts in evaluation.items() for text in texts],
        "fit no task": [(text, []) for text in outside],
    }
    called = {}
    for name, jobs in groups.items():
        decisions, plain, seeking = judge(base, router, [text for text, _ in jobs])
        compound = [decision.kind == "compound" for decision in decisions]
        right = [set(d.tasks) == set(t) for d, (_, t) in zip(decisions, jobs, strict=True)]
        called[name] = sum(compound)
        both = [c and r for c, r in zip(compound, right, strict=True)]
        several = name == next(iter(groups))
        report.rows.append(
            {
                "jobs": name,
                "count": len(jobs),
                "called compound": share(compound),
                "with the right tasks": share(both) if several else None,
                "us, plain decision": round(plain * 1e6),
                "us, looking for several": round(seeking * 1e6),
            }
        )
        for decision, (text, wanted) in zip(decisions, jobs, strict=True):
            if several or decision.kind == "compound":
                mark = "right" if set(decision.tasks) == set(wanted) else "wrong"
                kind = mark if decision.kind == "compound" else f"missed ({decision.kind})"
                words = f"{'+'.join(wanted) or 'none'} as {'+'.join(decision.tasks) or 'none'}"
                report.notes.append(f"{kind}: {words}: {' '.join(text.split())[:SHOWN]}")
    first, hard, *_ = groups
    report.ratios = {
        "compound jobs recognised": report.rows[0]["called compound"],
        "of these with the right tasks": report.rows[0]["with the right tasks"]
        / max(report.rows[0]["called compound"], 1e-9),
        "right to call them compound, both kinds by hand": called[first]
        / max(called[first] + called[hard], 1),
        "evaluation rows called compound": report.rows[2]["called compound"],
    }
    report.aim("evaluation rows called compound", at_most=FALSE)
    fitted = {name: value for name, value in router.metrics.items() if name.startswith("compound")}
    report.notes.append("at the fit: " + ", ".join(f"{name} {value:.3f}" for name, value in fitted.items()))


def judge(base: Base, router: Router, texts: Sequence[str]) -> tuple[list[Decision], float, float]:
    """One by one, as jobs come; seconds a job of the plain decision, and of looking for several tasks."""
    renderer = Renderer.of(base.tokenizer)
    decisions, plain, seeking = [], 0.0, 0.0
    for text in map(tidy, texts):
        ids = [renderer.job_ids(text)]
        (state,) = run_trunk(base.model, max(router.taps), ids, taps=router.taps)
        begun = time.perf_counter()
        (decision,) = router.decide(Readings.of([state], [text], router.taps))
        decided = time.perf_counter()
        if router.compounds is not None:
            decision, _ = router.compounds.seek(decision, text, state, router.ground.frame, renderer)
        seeking += time.perf_counter() - decided
        plain += decided - begun
        decisions.append(decision)
    return decisions, plain / len(texts), seeking / len(texts)


if __name__ == "__main__":
    main(sys.argv[1:])
