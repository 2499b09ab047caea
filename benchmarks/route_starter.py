"""The router on the starter tasks: fitted on their training rows, judged on their evaluation rows and on
the two sets of ``tests/data/out_of_scope*.jsonl``, of which no threshold has seen anything.

    python -m benchmarks.route_starter [--json FILE]

Two tables, each with a file of its own: how jobs are routed (``route_starter.json``), and what small changes
and injections do to them (``route_starter_changes.json``), both of held-out training rows, as every fit
reports it, and of evaluation rows, which the router has never seen. A *flip* is another word on the changed
job; *astray*, a flip to a task that is not the job's own. An attack succeeds if the job is routed
to the task that the attack names and was not before; each of the fifty is tried on three jobs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Report, bench_base
from fleet.data.rows import load_task_rows
from fleet.engine.base import Base, load_base
from fleet.engine.prompt import render_job
from fleet.project import Project
from fleet.recipe import task_spec
from fleet.routing.decision import Decision
from fleet.routing.fit import fit_router
from fleet.routing.head import Router
from fleet.routing.heldout import auroc
from fleet.routing.perturb import KINDS, perturbed
from fleet.routing.reading import Readings, read_texts
from fleet.routing.siege import attacked
from fleet.routing.task import RouterTask
from fleet.stores import open_base

CHANGED = 24
"""Evaluation rows of each task that are changed, in every way."""
SMOKE_ROWS = 12
SEED = 1
"""Of the changes; fits have another."""
MISROUTED, REFUSED, TURNED_AWAY, SUCCESS = 0.05, 0.1, 0.8, 0.05
"""Aims: at most, at most, at least, at most."""
TOLD = (
    "cv_accuracy",
    "cv_coverage",
    "cv_misroute",
    "cv_clarified",
    "cv_abstained",
    "loto_",
    "weight_",
    "budget_",
)
"""Of the fit's own figures; ``--json`` has all."""


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--json", type=Path, help="all figures of both tables in one file")
    parser.add_argument("--smoke", action="store_true", help="a tiny base and few rows: does it run?")
    given = parser.parse_args(argv)
    project = Project.find(given.root)
    tasks, evaluation = read(project)
    if given.smoke:
        tasks = [replace(t, texts=t.texts[:SMOKE_ROWS], sources=t.sources[:SMOKE_ROWS]) for t in tasks]
        evaluation = {name: texts[:SMOKE_ROWS] for name, texts in evaluation.items()}
        with bench_base(smoke=True) as folder:
            base = load_base(folder)
            found = judge(base, project, tasks, evaluation)
    else:
        base = open_base(project)
        found = judge(base, project, tasks, evaluation)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    routing = Report("route_starter", "The router on the starter tasks", smoke=given.smoke)
    tell(routing, found)
    routing.finish()
    changes = Report(
        "route_starter_changes", "Jobs that are changed a little, or attacked", smoke=given.smoke
    )
    tell_changes(changes, found)
    changes.finish()


def judge(
    base: Base, project: Project, tasks: Sequence[RouterTask], evaluation: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Fit on the tasks, and everything that is measured of it."""
    started = time.perf_counter()
    router = fit_router(base, tasks, depth=project.config.trunk_layers)
    fitted = time.perf_counter() - started
    texts = [text for rows in evaluation.values() for text in rows]
    truth = [name for name, rows in evaluation.items() for _ in rows]
    outside, unseen = (outside_texts(project, name) for name in ("out_of_scope", "out_of_scope_unseen"))
    real, beyond, strange = (read_texts(base, each, router.taps) for each in (texts, outside, unseen))
    router.decide(real)  # the language model is loaded with the first abstention
    started = time.perf_counter()
    router.decide(real)
    decided = time.perf_counter() - started
    jobs = [replace(task, texts=evaluation[task.name]) for task in tasks]
    return {
        **figures(router, real, truth, beyond),
        "unseen_abstained": share([d.kind == "abstain" for d in router.decide(strange)]),
        "unseen_auroc": auroc(router.scores(real).max(1), router.scores(strange).max(1)),
        "fit_seconds": round(fitted, 1),
        "decide_microseconds_per_job": round(decided / len(real) * 1e6, 1),
        "changed": {**flips(base, router, evaluation), **attacked(base, router, jobs)},
        "held_out": dict(router.metrics),
    }


def outside_texts(project: Project, name: str) -> list[str]:
    """Texts that fit no task; the unseen ones were written without sight of the router's background."""
    with (project.root / "tests" / "data" / f"{name}.jsonl").open() as lines:
        return [json.loads(line)["text"] for line in lines]


def read(project: Project) -> tuple[list[RouterTask], dict[str, list[str]]]:
    """What the router learns from, and the evaluation inputs of each task."""
    tasks, evaluation = [], {}
    for name, manifest in project.tasks().items():
        rows = load_task_rows(project.root, manifest)
        prompt = task_spec(manifest).prompt
        train = [render_job(prompt, row.fields) for row in rows.train]
        places = [row.place for row in rows.train]
        tasks.append(
            RouterTask(name, train, manifest.routing.examples, rows.digest, places, manifest.description)
        )
        evaluation[name] = [render_job(prompt, row.fields) for row in rows.eval]
    return tasks, evaluation


def figures(router: Router, real: Readings, truth: Sequence[str], beyond: Readings) -> dict[str, Any]:
    """Under the router's own thresholds."""
    decisions = router.decide(real)
    routed = [(d.task, t) for d, t in zip(decisions, truth, strict=True) if d.kind == "route"]
    asked = [(d.tasks, t) for d, t in zip(decisions, truth, strict=True) if d.kind == "clarify"]
    nearest = [d.scores[0][0] for d in decisions]
    by_task = {}
    for name in router.tasks:
        mine = [d for d, t in zip(decisions, truth, strict=True) if t == name]
        gone = [d for d in mine if d.kind == "route"]
        by_task[name] = {
            "rows": len(mine),
            "routed": share([d.kind == "route" for d in mine]),
            "right_of_routed": share([d.task == name for d in gone]),
            "refused": share([d.kind == "abstain" for d in mine]),
        }
    return {
        "rows": len(truth),
        "outside_rows": len(beyond),
        "misrouted": share([task != t for task, t in routed]),
        "accuracy_all": share([task == t for task, t in zip(nearest, truth, strict=True)]),
        "routed": len(routed) / len(truth),
        "clarified": len(asked) / len(truth),
        "clarified_names_the_task": share([t in tasks for tasks, t in asked]),
        "refused": share([d.kind == "abstain" for d in decisions]),
        "outside_abstained": share([d.kind == "abstain" for d in router.decide(beyond)]),
        "auroc": auroc(router.scores(real).max(1), router.scores(beyond).max(1)),
        "tasks": by_task,
    }


def share(hits: Sequence[bool]) -> float | None:
    """None of nothing."""
    return float(np.mean(hits)) if len(hits) else None


def flips(base: Base, router: Router, evaluation: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Of evaluation rows: share of changed ones with another word, and of those astray, by way and in all."""
    rows = [(text, name) for name, texts in evaluation.items() for text in texts[:CHANGED]]
    before = router.decide(read_texts(base, [text for text, _ in rows], router.taps))
    found: dict[str, float] = {}
    every: list[tuple[bool, bool]] = []
    for kind in sorted(KINDS):
        changed = [(n, text) for n, (was, _) in enumerate(rows) if (text := perturbed(kind, was, SEED))]
        after = router.decide(read_texts(base, [text for _, text in changed], router.taps))
        pairs = [_flip(before[n], now, rows[n][1]) for (n, _), now in zip(changed, after, strict=True)]
        every += pairs
        found |= _shares(pairs, kind.replace(" ", "_"))
    return found | _shares(every, "rate")


def _flip(was: Decision, now: Decision, truth: str) -> tuple[bool, bool]:
    flipped = (was.kind, was.task) != (now.kind, now.task)
    return flipped, flipped and now.task is not None and now.task != truth


def _shares(pairs: Sequence[tuple[bool, bool]], way: str) -> dict[str, float]:
    flipped, astray = zip(*pairs, strict=True)
    return {f"flip_{way}": share(flipped), f"astray_{way}": share(astray)}


def tell(report: Report, found: Mapping[str, Any]) -> None:
    for name, row in found["tasks"].items():
        report.rows.append({"task": name, **row})
    shown = {
        "misrouted, of routed": found["misrouted"],
        "real jobs refused": found["refused"],
        "texts of nobody turned away": found["outside_abstained"],
        "the same, unseen by who wrote the background": found["unseen_abstained"],
        "out-of-scope AUROC": found["auroc"],
        "out-of-scope AUROC, unseen": found["unseen_auroc"],
        "accuracy without refusals": found["accuracy_all"],
        "routed": found["routed"],
        "asked back": found["clarified"],
        "asked back with the task named": found["clarified_names_the_task"],
        "calibration error, held-out rows": found["held_out"]["cv_calibration_error"],
    }
    report.ratios = {name: value for name, value in shown.items() if value is not None}
    for name, at_most in (("misrouted, of routed", MISROUTED), ("real jobs refused", REFUSED)):
        if name in report.ratios:
            report.aim(name, at_most=at_most)
    for name in ("texts of nobody turned away", "the same, unseen by who wrote the background"):
        report.aim(name, at_least=TURNED_AWAY)
    told = {name: value for name, value in found["held_out"].items() if name.startswith(TOLD)}
    report.notes += [
        f"{found['rows']} evaluation rows, {found['outside_rows']} texts that fit no task",
        f"{found['fit_seconds']:.0f} s to read and fit",
        f"{found['decide_microseconds_per_job']:.0f} us a decision, all at once, letters read before",
        "held-out training rows: " + ", ".join(f"{name} {value:.3f}" for name, value in told.items()),
    ]


def tell_changes(report: Report, found: Mapping[str, Any]) -> None:
    held, new = found["held_out"], found["changed"]
    ways = sorted({name.removeprefix("flip_") for name in held | new if name.startswith("flip_")})
    for way in sorted(ways, key="rate".__eq__):
        report.rows.append(
            {
                "change": "all" if way == "rate" else way.replace("_", " "),
                **{
                    f"{what}, {whose}": rows.get(f"{key}_{way}")
                    for whose, rows in (("evaluation rows", new), ("held-out rows", held))
                    for what, key in (("flips", "flip"), ("astray", "astray"))
                },
            }
        )
    report.ratios = {
        "attacks that succeed, on evaluation rows": new["attack_success"],
        "attacks that succeed, on training rows": held["attack_success"],
        "attacked jobs no longer routed, evaluation rows": new["attack_unrouted"],
    }
    for name in list(report.ratios)[:2]:
        report.aim(name, at_most=SUCCESS)


if __name__ == "__main__":
    main(sys.argv[1:])
