"""Eight public data sets as the eight tasks of one fleet, with instructions and without.

Fitted on 512 training rows of each and three instructions; judged on up to 500 test rows of each alone, and
100 of each beside an instruction that no fit has seen. Test texts that are among a set's training rows are
left out. CLINC150's out-of-scope rows stand for jobs of nobody, beside a task made of its other rows: near.
The budget reckons with a share of such jobs in the traffic, so misroutes are shown without and with them.
Once the fleet has no jobs of nobody of its own, and once it is told of a hundred (CLINC150's out-of-scope
training rows, as ``routing.out_of_scope_jobs``).
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bench import Report
from benchmarks.routing.marks import fared, flips, mixed
from benchmarks.routing.sets import SETS
from benchmarks.routing.stage import READ, Row, Stage, columns, draw
from fleet.routing.background import Foreign
from fleet.routing.budget import Budget
from fleet.routing.fit import told_of
from fleet.routing.head import Router
from fleet.routing.reading import Readings

BEYOND, TAUGHT = "clinc150/oos_test.jsonl", "clinc150/oos_train.jsonl"
NO, TOLD = "no jobs of nobody", "100 jobs of nobody"
FILES = (BEYOND, TAUGHT, *(f"{each.folder}/{part}.jsonl" for each in SETS for part in ("train", "test")))
BUDGETS = (0.01, 0.02, 0.05)
TRAINED, TESTED, ASKED = 512, 500, 100
ALONE, BESIDE, NOBODY = "input alone", "instruction and input", "of nobody"


def measure(stage: Stage, report: Report) -> None:
    train, alone, beside = _rows(stage, report)
    evidence = stage.evidence(train, {each.task: each.examples for each in SETS})
    rows = {ALONE: alone, BESIDE: beside}
    read = {kind: stage.read(columns(each)[0], f"test rows, {kind}") for kind, each in rows.items()}
    beyond = stage.read(stage.texts(BEYOND), "rows of nobody")
    truth = {kind: columns(each)[1] for kind, each in rows.items()}
    grounds = {NO: stage.ground, TOLD: told_of(stage.base, stage.ground, Foreign.of(stage.texts(TAUGHT)))}
    for own, ground in grounds.items():
        stage.say(f"fitting: {own}")
        router = Router.build(ground, evidence)
        for most in BUDGETS:
            stage.say(f"a budget of {most}")
            _judge(router.under(Budget(most)), own, read, truth, beyond, report)
        if own == NO:
            report.notes += flips(router)


def _rows(stage: Stage, report: Report) -> tuple[list[Row], list[Row], list[Row]]:
    train: list[Row] = []
    alone: list[Row] = []
    beside: list[Row] = []
    few = stage.cut is not None
    for each in SETS:
        texts, _ = columns(stage.rows(f"{each.folder}/train.jsonl", each.column))
        seen = set(texts)
        held, _ = columns(stage.rows(f"{each.folder}/test.jsonl", each.column))
        new = [text for text in held if text not in seen]
        if len(new) < len(held):
            report.notes.append(f"{each.task}: {len(held) - len(new)} test texts are training rows: left out")
        train += draw([(text, each.task) for text in texts], READ if few else TRAINED, 0)
        tested = draw([(text, each.task) for text in new], READ if few else TESTED, 1)
        alone += tested
        beside += [(f"{each.unseen}\n{text}", each.task) for text, _ in tested[:ASKED]]
    return train, alone, beside


def _judge(
    router: Router,
    own: str,
    read: Mapping[str, Readings],
    truth: Mapping[str, list[str]],
    beyond: Readings,
    report: Report,
) -> None:
    most = router.budget.max_misroute
    outside = fared(router, beyond, None)
    for kind in read:
        inside = fared(router, read[kind], truth[kind])
        report.rows.append({"told": own, "budget": most, "jobs": kind, **inside})
        strangers = f"{kind}, {router.budget.out_of_scope:.0%} {NOBODY}"
        shares = {kind: inside["misroutes"], strangers: mixed(inside, outside, router.budget)}
        for what, share in shares.items():
            name = f"{own}, {what}: misroutes / budget of {most}"
            report.ratios[name] = share / most
            report.aim(name, at_most=1)
    report.rows.append({"told": own, "budget": most, "jobs": NOBODY, **outside})
    shown = "show that it is kept" if router.thresholds.kept else "cannot show that it is kept"
    report.notes.append(f"{own}, budget {most}: held-out training rows {shown}")
