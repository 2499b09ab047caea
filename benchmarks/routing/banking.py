"""banking77 as 77 near tasks, and with a quarter of the intents left out of every fit.

Test rows of intents that were left out are out of scope, and near: they are of the same bank. Three draws.
There are no validation rows, so what is refused is told at the router's own threshold, which held-out
training rows set for the default budget. The regression's C is not looked for (10).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.bench import Report
from benchmarks.routing.baseline import Baseline
from benchmarks.routing.marks import Marks, below
from benchmarks.routing.stage import Row, Stage, columns
from fleet.routing.head import Router

FILES = ("banking77/train.jsonl", "banking77/test.jsonl")
DRAWS = (None, 0, 1, 2)
"""Seeds of what is left out; None: nothing."""
LEFT = 4
"""One intent of so many is left out."""


def measure(stage: Stage, report: Report) -> None:
    train, test = (stage.fewer(stage.rows(file)) for file in FILES)
    evidence = stage.evidence(train)
    texts, truth = columns(test)
    read = stage.read(texts, "test rows")
    aurocs: dict[str, list[float]] = {}
    for seed in DRAWS:
        what = "all intents" if seed is None else f"a quarter left out, draw {seed}"
        stage.say(what)
        left = set() if seed is None else _left(sorted(evidence), seed)
        router = Router.build(stage.ground, {name: e for name, e in evidence.items() if name not in left})
        scores = router.scores(read)
        best, fit = np.array(router.tasks)[scores.argmax(1)], scores.max(1)
        inside = np.array([name not in left for name in truth])
        ours = Marks(best[inside], fit[inside], fit[~inside])
        known = [name for name in truth if name not in left]
        report.rows.append(_row(what, "taskfleet", ours, known, router.thresholds.fit))
        report.rows.append(
            _row(what, "TF-IDF + logistic regression", _simple(train, test, left), known, None)
        )
        for row in report.rows[-2:]:
            if row["AUROC"] is not None:
                aurocs.setdefault(row["contender"], []).append(row["AUROC"])
    report.ratios["accuracy, all intents"] = report.rows[0]["accuracy"]
    for name, each in aurocs.items():
        report.ratios[f"near out-of-scope AUROC, mean of {len(each)} draws: {name}"] = float(np.mean(each))


def _left(names: Sequence[str], seed: int) -> set[str]:
    return set(random.Random(seed).sample(names, max(1, len(names) // LEFT)))


def _simple(train: Sequence[Row], test: Sequence[Row], left: set[str]) -> Marks:
    model = Baseline.fit([row for row in train if row[1] not in left])
    return model.marks(
        [text for text, name in test if name not in left], [text for text, name in test if name in left]
    )


def _row(what: str, name: str, marks: Marks, truth: Sequence[str], least: float | None) -> dict[str, Any]:
    outside = len(marks.strange)
    return {
        "intents": what,
        "contender": name,
        "in scope": len(truth),
        "out of scope": outside,
        "accuracy": marks.right(truth),
        "AUROC": marks.auroc,
        "in scope refused": None if least is None else below(marks.fit, least),
        "out of scope refused": None if least is None or not outside else below(marks.strange, least),
    }
