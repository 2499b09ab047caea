"""The router on the starter tasks: fitted on their training rows, judged on their evaluation rows and on
the two sets of ``tests/data/out_of_scope*.jsonl``, of which no threshold has seen anything.

    python benchmarks/route_starter.py [--compare] [--json FILE]

``--compare`` adds the variants that were weighed against what ships.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.data.rows import load_task_rows
from fleet.engine.base import Base
from fleet.engine.prompt import Renderer, render_job
from fleet.engine.trunk import run_trunk
from fleet.project import Project
from fleet.recipe import task_spec
from fleet.routing.background import load_background
from fleet.routing.calibrate import auroc, calibrate, cross_validate
from fleet.routing.discriminant import Discriminant
from fleet.routing.evidence import EXAMPLE, INPUT, Evidence, fold_of_group, pick_rows
from fleet.routing.features import Frame, stack
from fleet.routing.fit import RouterTask, fit_router
from fleet.routing.head import Router
from fleet.stores import open_base

Floats = NDArray[Any]
Means = Mapping[int, Any]


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--compare", action="store_true")
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
    real = stack(means(base, texts, depth, router.taps), router.taps)
    beyond = stack(means(base, outside, depth, router.taps), router.taps)
    strange = stack(means(base, unseen, depth, router.taps), router.taps)
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
    if arguments.compare:
        report["variants"] = compare(base, tasks, texts, truth, outside)
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


def means(base: Base, texts: Sequence[str], depth: int, taps: Sequence[int]) -> list[Means]:
    renderer = Renderer(base.tokenizer)
    found: list[Means] = []
    for start in range(0, len(texts), 256):
        ids = [renderer.job_ids(text) for text in texts[start : start + 256]]
        found += [state.means for state in run_trunk(base.model, depth, ids, taps=taps)]
    return found


def figures(router: Router, real: Floats, truth: Sequence[str], beyond: Floats) -> dict[str, Any]:
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
        ("accuracy_routed", ">= .93"),
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


def compare(
    base: Base,
    tasks: Sequence[RouterTask],
    texts: Sequence[str],
    truth: Sequence[str],
    outside: Sequence[str],
) -> list[dict[str, Any]]:
    """Other taps, other rows, other models of a task and of what fits none."""
    layers, depth = (2, 3, 4, 6, 9), 9
    ground = load_background()
    picks = {task.name: pick_rows(task.texts, task.examples, task.sources) for task in tasks}
    read_means = {name: means(base, [p.text for p in each], depth, layers) for name, each in picks.items()}
    sets = [means(base, each, depth, layers) for each in (ground.texts, texts, outside)]
    folds = fold_of_group(ground.groups)
    found = []

    def judge(
        label: str, taps: Sequence[int], split: Callable[[str, Evidence], list[Evidence]] | None = None
    ) -> None:
        generic, real, beyond = (stack(each, taps) for each in sets)
        frame = Frame.of(generic, generic[0])
        parts = {}
        for name, each in picks.items():
            whole = Evidence.of("", each, frame.place(stack(read_means[name], taps)))
            for n, part in enumerate([whole] if split is None else split(name, whole)):
                parts[f"{name}#{n}"] = part
        rows = frame.place(generic)
        model = Discriminant.fit({name: part.rows for name, part in parts.items()}, rows)
        owners = [name.split("#")[0] for name in model.names]
        held = cross_validate(parts, rows, folds)
        names = sorted(picks)
        merged = type(held)(
            best(held.scores, owners, names),
            np.array([names.index(owners[n]) for n in held.truth]),
            best(held.background, owners, names),
        )
        thresholds, cv = calibrate(merged)
        scores, none = (best(model.scores(frame.place(raw)), owners, names) for raw in (real, beyond))
        add(label, scores, none, names, thresholds.fit, cv)

    def add(
        label: str,
        scores: Floats,
        none: Floats,
        names: Sequence[str],
        fit: float | None,
        cv: Mapping[str, float],
    ) -> None:
        right = np.array(names)[scores.argmax(1)] == np.array(truth)
        fits, misfits = scores.max(1), none.max(1)
        line = {
            "variant": label,
            "cv_accuracy": cv.get("cv_accuracy", float("nan")),
            "cv_unseen_background_abstained": cv.get("background_abstained", float("nan")),
            "accuracy_all": float(right.mean()),
            "auroc": auroc(fits, misfits),
            "outside_abstained": share(misfits < (np.quantile(fits, 0.05) if fit is None else fit)),
        }
        found.append(line)
        print(f"{label:46} " + " ".join(f"{value:6.3f}" for key, value in line.items() if key != "variant"))

    print(f"\n{'variant':46} cv acc  unseen    acc  auroc abstain")
    for taps in ((3,), (6,), (2, 6), (3, 6), (4, 6), (2, 4, 6), (3, 6, 9)):
        judge(f"layers {'+'.join(map(str, taps))}", taps)
    judge("layers 4+6, no routing examples", (4, 6), lambda _, e: [keep(e, [k == INPUT for k in e.kinds])])
    judge(
        "layers 4+6, examples alone left out", (4, 6), lambda _, e: [keep(e, [k != EXAMPLE for k in e.kinds])]
    )
    for count in (2, 4):
        judge(
            f"layers 4+6, {count} sub-classes a task (k-means)", (4, 6), lambda _, e, c=count: clusters(e, c)
        )
    add_classical(picks, read_means, sets, add)
    return found


def best(scores: Floats, owners: Sequence[str], names: Sequence[str]) -> Floats:
    """The best sub-class of each task."""
    return np.stack([scores[:, [o == name for o in owners]].max(1) for name in names], axis=1)


def keep(evidence: Evidence, mask: Sequence[bool]) -> Evidence:
    places = np.flatnonzero(mask)

    def chosen(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[n] for n in places)

    e = evidence
    return Evidence(e.digest, e.rows[places], *map(chosen, (e.kinds, e.folds, e.snippets, e.sources)))


def clusters(evidence: Evidence, count: int) -> list[Evidence]:
    from sklearn.cluster import KMeans

    labels = KMeans(count, n_init=2, random_state=0).fit_predict(evidence.rows.astype(np.float32))
    return [keep(evidence, labels == n) for n in range(count)]


def add_classical(picks: Mapping[str, Any], read_means: Mapping[str, Any], sets: Any, add: Any) -> None:
    """Without background texts: one Gaussian over all tasks' rows as in the paper."""
    from sklearn.covariance import LedoitWolf

    names = sorted(picks)
    taps = (3, 6)
    raw = {
        n: stack([m for m, p in zip(read_means[n], picks[n], strict=True) if p.kind == INPUT], taps)
        for n in names
    }
    centre = np.concatenate(list(raw.values())).astype(np.float64).mean(0)

    def unit(x: Floats) -> Floats:
        return (x - centre) / np.linalg.norm(x - centre, axis=1, keepdims=True)

    rows = {n: unit(raw[n]) for n in names}
    within = (
        LedoitWolf(assume_centered=True)
        .fit(np.concatenate([r - r.mean(0) for r in rows.values()]))
        .precision_
    )
    everything = np.concatenate(list(rows.values()))
    total = LedoitWolf().fit(everything)

    def distances(x: Floats) -> tuple[Floats, Floats]:
        to_tasks = np.stack(
            [(((x - rows[n].mean(0)) @ within) * (x - rows[n].mean(0))).sum(1) for n in names], 1
        )
        return to_tasks, np.asarray(total.mahalanobis(x))[:, None]

    (real, real_all), (beyond, beyond_all) = (distances(unit(stack(each, taps))) for each in sets[1:])
    add("layers 3+6, one Gaussian over tasks (RMD)", real_all - real, beyond_all - beyond, names, None, {})
    add("layers 3+6, plain Mahalanobis distance", -real, -beyond, names, None, {})


if __name__ == "__main__":
    main(sys.argv[1:])
