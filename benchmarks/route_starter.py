"""The router on the starter tasks: fitted on their training rows, judged on their evaluation rows and on
the two sets of ``tests/data/out_of_scope*.jsonl``, of which no threshold has seen anything.

    python benchmarks/route_starter.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fleet.data.rows import load_task_rows
from fleet.engine.prompt import render_job
from fleet.project import Project
from fleet.recipe import task_spec
from fleet.routing.fit import fit_router
from fleet.routing.head import Router
from fleet.routing.heldout import auroc
from fleet.routing.reading import Readings, read_texts
from fleet.routing.task import RouterTask
from fleet.stores import open_base


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    project = Project.find(arguments.root)
    tasks, evaluation = read(project)
    outside, unseen = (outside_texts(project, name) for name in ("out_of_scope", "out_of_scope_unseen"))
    base = open_base(project)
    depth = project.config.trunk_layers

    started = time.perf_counter()
    router = fit_router(base, tasks, depth=depth)
    fitted = time.perf_counter() - started
    texts = [text for rows in evaluation.values() for text in rows]
    truth = [name for name, rows in evaluation.items() for _ in rows]
    real, beyond, strange = (read_texts(base, each, router.taps) for each in (texts, outside, unseen))
    started = time.perf_counter()
    router.decide(real)
    decided = time.perf_counter() - started
    report = {
        **figures(router, real, truth, beyond),
        "unseen_abstained": share([d.kind == "abstain" for d in router.decide(strange)]),
        "unseen_auroc": auroc(router.scores(real).max(1), router.scores(strange).max(1)),
        "fit_seconds": round(fitted, 1),
        "decide_microseconds_per_job": round(decided / len(real) * 1e6, 1),
        "held_out": dict(router.metrics),
    }
    show(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


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
        tasks.append(
            RouterTask(name, train, manifest.routing.examples, rows.digest, [r.place for r in rows.train])
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
        "accuracy_routed": share([task == t for task, t in routed]),
        "accuracy_all": share([task == t for task, t in zip(nearest, truth, strict=True)]),
        "routed": len(routed) / len(truth),
        "clarified": len(asked) / len(truth),
        "clarified_names_the_task": share([t in tasks for tasks, t in asked]),
        "refused": share([d.kind == "abstain" for d in decisions]),
        "outside_abstained": share([d.kind == "abstain" for d in router.decide(beyond)]),
        "auroc": auroc(router.scores(real).max(1), router.scores(beyond).max(1)),
        "tasks": by_task,
    }


def share(hits: Sequence[bool]) -> float:
    return float(np.mean(hits)) if len(hits) else float("nan")


def show(report: Mapping[str, Any]) -> None:
    print(f"{report['rows']} evaluation rows, {report['outside_rows']} texts that fit no task\n")
    for key, target in (
        ("accuracy_routed", ">= .95, the budget"),
        ("refused", "<= .10"),
        ("outside_abstained", ">= .80"),
        ("auroc", ""),
        ("unseen_abstained", ">= .80"),
        ("unseen_auroc", ""),
        ("accuracy_all", ""),
        ("routed", ""),
        ("clarified", ""),
        ("clarified_names_the_task", ""),
    ):
        print(f"{key:26} {report[key]:.3f}  {target}")
    print(f"{'fit_seconds':26} {report['fit_seconds']}")
    print(f"{'decide, us per job':26} {report['decide_microseconds_per_job']}\n")
    print(f"{'task':16} {'rows':>5} {'routed':>7} {'right':>6} {'refused':>8}")
    for name, row in report["tasks"].items():
        line = f"{row['routed']:7.2f} {row['right_of_routed']:6.2f} {row['refused']:8.2f}"
        print(f"{name:16} {row['rows']:5} {line}")
    print("\nheld-out training rows: " + ", ".join(f"{k} {v:.3f}" for k, v in report["held_out"].items()))


if __name__ == "__main__":
    main(sys.argv[1:])
