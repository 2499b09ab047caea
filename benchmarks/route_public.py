"""The router on public data: accuracy, out-of-scope, budget, size. Thresholds see no test row.

    python -m benchmarks.route_public [--parts clinc banking fleet size] [--data ../shared/data]

- clinc: CLINC150, 150 intents as 150 tasks, publisher's split; its 1,000 out-of-scope test rows. Beside it
  TF-IDF of 1-2 grams with logistic regression (the better C of 10 and 30 on the validation rows).
- banking: banking77 as 77 near tasks; then a quarter of the intents left out of fitting, whose test rows
  must be told from the others (near out-of-scope).
- fleet: the eight data sets as eight tasks, test rows alone and beside an instruction that no fit has
  seen; misroutes and coverage at three budgets. clinc150's out-of-scope rows stand for jobs of nobody.
- size: 10, 100 and 1,000 tasks made of CLINC150's features, moved about: time of a decision, memory of
  the map, time to add a task.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Report, bench_base
from fleet.engine.base import Base, load_base
from fleet.routing.budget import Budget
from fleet.routing.evidence import Evidence
from fleet.routing.fit import gather, lay_ground
from fleet.routing.head import Ground, Router
from fleet.routing.heldout import auroc
from fleet.routing.reading import Readings, read_texts
from fleet.routing.task import RouterTask

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
Rows = list[tuple[str, str]]
"""Text and task."""

SETS: Mapping[str, tuple[str, str, Sequence[str], str]] = {
    "banking": (
        "banking77",
        "label",
        (
            "What does this customer want from the bank?",
            "Sort this banking question",
            "Which banking topic is it?",
        ),
        "Name the banking issue of this message",
    ),
    "assistant": (
        "clinc150",
        "label",
        (
            "What is the user asking the assistant to do?",
            "Find the intent of this voice command",
            "Which command is this?",
        ),
        "Tell me the intent of the request",
    ),
    "moderation": (
        "moderation_10_languages",
        "label",
        ("Is this hateful?", "Does this comment break our rules?", "Check this post for hate speech"),
        "Should this be removed for hate?",
    ),
    "slots": (
        "snips",
        "intent",
        (
            "Fill in the slots of this request",
            "Turn this command into a record",
            "Pull the parameters out of this",
        ),
        "Which values does this command contain?",
    ),
    "reviews": (
        "sst2",
        "label",
        ("Did the critic like the film?", "Is this film review positive?", "Sentiment of this movie review"),
        "Good or bad review of a movie?",
    ),
    "emotion": (
        "tweet_emotion",
        "label",
        ("Which emotion is in this tweet?", "How does the writer feel?", "Joy, anger, sadness or optimism?"),
        "Name the feeling behind this post",
    ),
    "irony": (
        "tweet_irony",
        "label",
        ("Is this tweet ironic?", "Does the writer mean the opposite?", "Is this sarcasm?"),
        "Sarcastic or meant seriously?",
    ),
    "entities": (
        "wnut17",
        "entities",
        ("Extract the people and places", "Which names are in this text?", "List the named entities"),
        "Who and what is named here?",
    ),
}
"""Folder, column, instructions for fitting, and one that is only tested."""


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--smoke", action="store_true", help="a tiny base and few rows: does it run?")
    given = parser.parse_args(argv)
    if not given.data.is_dir():
        raise SystemExit(f"skipped: the public data sets are not in {given.data}; name their folder (--data)")
    with bench_base(given.smoke) as folder:
        base = load_base(folder)
        bench = Bench(base, lay_ground(base, 6), given.data, 4 if given.smoke else None)
        for part in given.parts:
            report = Report(f"route_{part}", f"Router: {part}", smoke=given.smoke)
            PARTS[part](bench, report)
            report.finish()


@dataclass(frozen=True, slots=True)
class Bench:
    base: Base
    ground: Ground
    data: Path
    cut: int | None
    """Rows a task, for a smoke run."""

    def rows(self, path: str, column: str = "label") -> Rows:
        with (self.data / path).open(encoding="utf-8") as lines:
            return [(row["text"], str(row[column])) for row in map(json.loads, lines)]

    def evidence(
        self, rows: Rows, examples: Mapping[str, Sequence[str]] | None = None
    ) -> dict[str, Evidence]:
        by_task: dict[str, list[str]] = {}
        for text, task in rows:
            by_task.setdefault(task, []).append(text)
        if self.cut is not None:
            by_task = {task: by_task[task][: self.cut] for task in sorted(by_task)[: self.cut]}
        return {
            task: gather(
                self.base,
                self.ground,
                RouterTask(task, texts, (examples or {}).get(task, ()), "", [""] * len(texts)),
            )
            for task, texts in sorted(by_task.items())
        }

    def read(self, rows: Sequence[str]) -> Readings:
        return read_texts(self.base, rows[: None if self.cut is None else 20], self.ground.taps)


def clinc(bench: Bench, report: Report) -> None:
    train, test, val = (bench.rows(f"clinc150/{part}.jsonl") for part in ("train", "test", "val"))
    beyond = [text for text, _ in bench.rows("clinc150/oos_test.jsonl")]
    started = time.perf_counter()
    evidence = bench.evidence(train)
    read = time.perf_counter() - started
    started = time.perf_counter()
    router = Router.build(bench.ground, evidence)
    fitted = time.perf_counter() - started
    mine, theirs = bench.read([text for text, _ in test]), bench.read(beyond)
    scores, strange = router.scores(mine), router.scores(theirs).max(1)
    names = np.array(router.tasks)
    truth = np.array([task for _, task in test][: len(scores)])
    report.rows.append(_line("taskfleet", names[scores.argmax(1)] == truth, scores.max(1), strange))
    step = 1 if bench.cut is None else 50
    report.rows.append(_tfidf(train[::step], val[::step], test[::step], beyond))
    first = report.rows[0]
    report.ratios = {
        "accuracy": first["accuracy"],
        "out-of-scope AUROC": first["AUROC"],
        "fit seconds": fitted,
    }
    report.aim("accuracy", at_least=0.945)
    report.aim("out-of-scope AUROC", at_least=0.970)
    report.aim("fit seconds", at_most=60)
    report.notes.append(f"reading {len(train)} rows and their changes: {read:.0f} s")
    _decisions(report, router, mine, truth, theirs)


def banking(bench: Bench, report: Report) -> None:
    train, test = (bench.rows(f"banking77/{part}.jsonl") for part in ("train", "test"))
    evidence = bench.evidence(train)
    read = bench.read([text for text, _ in test])
    truth = np.array([task for _, task in test][: len(read)])
    for seed in (None, 0, 1, 2):
        left = (
            set() if seed is None else set(random.Random(seed).sample(sorted(evidence), len(evidence) // 4))
        )
        router = Router.build(bench.ground, {n: each for n, each in evidence.items() if n not in left})
        scores, inside = router.scores(read), np.isin(truth, list(router.tasks))
        best, fit = np.array(router.tasks)[scores.argmax(1)], scores.max(1)
        label = "all 77 intents" if seed is None else f"a quarter left out, draw {seed}"
        report.rows.append(_line(label, best[inside] == truth[inside], fit[inside], fit[~inside]))


def fleet(bench: Bench, report: Report) -> None:
    train: Rows = []
    test: Rows = []
    asked: Rows = []
    for task, (folder, column, _, unseen) in SETS.items():
        rows = bench.rows(f"{folder}/train.jsonl", column)
        train += [(text, task) for text, _ in random.Random(0).sample(rows, min(512, len(rows)))]
        held = bench.rows(f"{folder}/test.jsonl", column)
        held = random.Random(1).sample(held, min(500, len(held)))
        test += [(text, task) for text, _ in held]
        asked += [(f"{unseen}\n{text}", task) for text, _ in held[:100]]
    evidence = bench.evidence(train, {task: each[2] for task, each in SETS.items()})
    alone, beside = (bench.read([text for text, _ in rows]) for rows in (test, asked))
    beyond = bench.read([text for text, _ in bench.rows("clinc150/oos_test.jsonl")])
    for least in (0.01, 0.02, 0.05):
        router = Router.build(bench.ground, evidence, Budget(least))
        for kind, read, rows in (("input alone", alone, test), ("instruction and input", beside, asked)):
            routed = _routed(router, read, np.array([task for _, task in rows][: len(read)]))
            report.rows.append({"budget": least, "jobs": kind, **routed})
        report.rows.append(
            {"budget": least, "jobs": "of nobody", **_routed(router, beyond, np.array(["-"] * len(beyond)))}
        )
    for name, value in router.metrics.items():
        if name.startswith(("flip_", "astray_")):
            report.notes.append(f"{name} {value:.3f}")


def size(bench: Bench, report: Report) -> None:
    rows = bench.rows("clinc150/train.jsonl")
    seeds = list(bench.evidence(rows[:: 1 if bench.cut else 5]).values())
    jobs = bench.read([text for text, _ in bench.rows("clinc150/test.jsonl")][:64])
    for count in (2, 3) if bench.cut else (10, 100, 1000):
        tasks = {f"task-{n:04d}": _moved(seeds[n % len(seeds)], n) for n in range(count)}
        started = time.perf_counter()
        router = Router.build(bench.ground, tasks)
        built = time.perf_counter() - started
        started = time.perf_counter()
        router.add("one-more", _moved(seeds[0], count))
        added = time.perf_counter() - started
        one = Readings(jobs.raw[:1], jobs.grams[:1], jobs.tokens[:1], jobs.texts[:1])
        letters = router.lexicon.weights
        held = router.dense.weights.nbytes + letters.data.nbytes + letters.indices.nbytes
        report.rows.append(
            {
                "tasks": count,
                "ms a decision, alone": _median(lambda one=one, r=router: r.decide(one)) * 1e3,
                "ms a decision, of 64": _median(lambda r=router: r.decide(jobs)) * 1e3 / len(jobs),
                "MB of maps": held / 1e6,
                "s to fit": built,
                "s to add one": added,
            }
        )


PARTS: Mapping[str, Callable[[Bench, Report], None]] = {
    "clinc": clinc,
    "banking": banking,
    "fleet": fleet,
    "size": size,
}


def _moved(evidence: Evidence, seed: int) -> Evidence:
    """Another task of the same shape: features in another place."""
    shift = np.random.default_rng(seed).normal(0, 8, evidence.rows.shape[1])
    rows = np.clip(np.rint(evidence.rows + shift), -127, 127).astype(np.int8)
    return replace(evidence, rows=rows, changes=None)


def _median(call: Callable[[], object], times: int = 15) -> float:
    call()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def _line(name: str, right: Any, fit: Any, strange: Any) -> dict[str, Any]:
    least = float(np.quantile(fit, 0.05))
    return {
        "contender": name,
        "rows": len(right),
        "accuracy": float(np.mean(right)),
        "AUROC": auroc(fit, strange) if len(strange) else None,
        "out-of-scope recall at 5 % refused": float(np.mean(strange < least)) if len(strange) else None,
    }


def _tfidf(train: Rows, val: Rows, test: Rows, beyond: Sequence[str]) -> dict[str, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    seen = vectorizer.fit_transform([text for text, _ in train])
    labels = [task for _, task in train]
    models = [LogisticRegression(C=c, max_iter=200).fit(seen, labels) for c in (10, 30)]
    held = vectorizer.transform([text for text, _ in val])
    model = max(models, key=lambda each: each.score(held, [task for _, task in val]))
    chances = model.predict_proba(vectorizer.transform([text for text, _ in test]))
    strange = model.predict_proba(vectorizer.transform(beyond)).max(1)
    right = model.classes_[chances.argmax(1)] == np.array([task for _, task in test])
    return _line("TF-IDF + logistic regression", right, chances.max(1), strange)


def _routed(router: Router, read: Readings, truth: Any) -> dict[str, Any]:
    decisions = router.decide(read)
    routed = np.array([d.kind == "route" for d in decisions])
    wrong = np.array([d.task != t for d, t in zip(decisions, truth, strict=True)]) & routed
    named = [t in d.tasks for d, t in zip(decisions, truth, strict=True) if d.kind == "clarify"]
    return {
        "rows": len(decisions),
        "coverage": float(routed.mean()),
        "misroutes": float(wrong.sum() / max(routed.sum(), 1)),
        "asked back": float(np.mean([d.kind == "clarify" for d in decisions])),
        "of these with the task": float(np.mean(named)) if named else None,
        "abstained": float(np.mean([d.kind == "abstain" for d in decisions])),
    }


def _decisions(report: Report, router: Router, mine: Readings, truth: Any, theirs: Readings) -> None:
    for budget in (0.01, 0.02, 0.05):
        under = router.under(Budget(budget))
        inside = _routed(under, mine, truth)
        outside = _routed(under, theirs, np.array(["-"] * len(theirs)))
        report.notes.append(
            f"budget {budget}: coverage {inside['coverage']:.3f}, misroutes {inside['misroutes']:.4f}, "
            f"asked back {inside['asked back']:.3f}, abstained {inside['abstained']:.3f}; out-of-scope: "
            f"routed {outside['coverage']:.3f}, abstained {outside['abstained']:.3f}"
        )
    report.notes += [
        f"{name} {value:.3f}"
        for name, value in router.metrics.items()
        if name.startswith(("cv_calibration", "weight_", "flip_rate", "astray_rate"))
    ]


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
