"""What the clauses of a job ask for, learned from routing examples alone, beside inputs, and in pairs.

The examples of two tasks joined, with an input above, below or not at all, stand for compound jobs; an
example alone or beside an input of any task, and an input alone, stand for ordinary ones. Each is judged by
a map that saw neither its examples nor its inputs, and the bar is the lowest under which at most ``FALSE``
of the ordinary ones are called compound. Needs two tasks with examples. Knows no thresholds of the router
and no files.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from fleet.engine.base import Base
from fleet.engine.prompt import Renderer
from fleet.engine.trunk import POOLED_TOKENS, TrunkState, run_trunk
from fleet.routing.compound import Compounds, mean_state, own_block, placed, read_clauses
from fleet.routing.evidence import EXAMPLE, FOLDS, INPUT, Pick, pick_rows
from fleet.routing.features import STEPS
from fleet.routing.head import Ground
from fleet.routing.task import RouterTask
from fleet.routing.tidy import tidy

__all__ = ["fit_compounds"]

log = logging.getLogger(__name__)

FALSE = 0.01
"""Share of ordinary jobs that may be called compound: of inputs alone, and of those with an instruction."""
LOWEST = 0.1
"""Bar, however few ordinary jobs have several clauses."""
PULL = 0.01
"""Of the map, the inverse of its regularisation; features are standard deviations of the background."""
PAIRS = 400
"""Compound jobs that are made,"""
ALONE = 1000
"""inputs that are read, and as many jobs with one example; spread evenly over the tasks."""
BESIDE = 3
"""Inputs that an example is put beside: the last one is another task's."""
MOST_TASKS = 256
"""A fleet of more has no map: no job is called compound."""
CHUNK = 64
JOINTS = (" and ", ", then ", "; ", "\n", ". ", ", and also ")

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Made:
    """A job of which it is known who says what."""

    pieces: tuple[tuple[str, int | None], ...]
    """Texts, each with the place of the task that it asks for; None for content."""
    fold: int
    """That it is held out in; -1 for none."""

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)

    @property
    def asks(self) -> frozenset[int]:
        return frozenset(task for _, task in self.pieces if task is not None)

    def asked_in(self, begin: int, end: int, none: int) -> int | None:
        """What ``[begin, end)`` asks for; None where that is of two minds."""
        found, start = set(), 0
        for text, task in self.pieces:
            if begin < start + len(text) and end > start and text.strip():
                found.add(none if task is None else task)
            start += len(text)
        return found.pop() if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class _Read:
    made: _Made
    rows: NDArray[np.float32]
    """``[n, D]``: its clauses,"""
    learned: NDArray[np.float32]
    """and all that is learned from, which is more where the job is of one piece: that as a whole."""
    labels: NDArray[np.int64]
    """What each of the learned ones asks for."""


def fit_compounds(
    base: Base, ground: Ground, tasks: Sequence[RouterTask]
) -> tuple[Compounds | None, dict[str, float]]:
    """What recognises compound jobs of these tasks, and how held-out jobs fare under it."""
    asked = sorted((each for each in tasks if any(e.strip() for e in each.examples)), key=lambda t: t.name)
    if not 2 <= len(asked) <= MOST_TASKS:
        return None, {}
    picks = [pick_rows(each.texts, each.examples, each.sources) for each in asked]
    pairs, alone, inputs = _pairs(picks), _alone(picks), _inputs(picks)
    log.info("router: reading %d compound jobs and %d others", len(pairs), len(alone) + len(inputs))
    words = [_Made(((tidy(text), n),), -1) for n, task in enumerate(asked) for text in _words(task)]
    read = [_read_all(base, ground, each, len(asked)) for each in (pairs, alone, inputs, words)]
    learned = [each for group in read for each in group]
    held: list[list[tuple[float, bool]]] = [[], [], []]
    for fold in range(FOLDS):
        judge = _fit(learned, ground, asked, fold)
        for judged, group in zip(held, read[:3], strict=True):
            judged += [_judged(judge, each) for each in group if each.made.fold == fold]
    model = _fit(learned, ground, asked, None)
    if model is None:
        return None, {}
    ordinary = [np.array([least for least, _ in judged]) for judged in held[1:]]
    bar = _bar(ordinary)
    return replace(model, bar=bar), _figures(held[0], ordinary, bar)


def _figures(
    compound: Sequence[tuple[float, bool]], ordinary: Sequence[Doubles], bar: float
) -> dict[str, float]:
    found = [least >= bar for least, _ in compound]
    whole = [least >= bar and right for least, right in compound]
    false = [each >= bar for each in ordinary]
    shares = {
        "compound_found": _share(found),
        "compound_right": _share(whole),
        "compound_false": _share([_share(each) for each in false if len(each)]),
        "compound_false_instructions": _share(false[0]),
        "compound_false_inputs": _share(false[1]),
    }
    return {
        "compound_bar": bar,
        "compound_rows": float(len(found)),
        "compound_ordinary_rows": float(sum(map(len, false))),
        **{name: value for name, value in shares.items() if np.isfinite(value)},
    }


def _share(hits: Sequence[float] | NDArray[np.bool_]) -> float:
    return float(np.mean(hits)) if len(hits) else float("nan")


def _bar(ordinary: Sequence[Doubles]) -> float:
    """The lowest that keeps ``FALSE`` in each group for itself; one ordinary job is needed."""
    groups = [np.sort(each) for each in ordinary if len(each)]
    bars = np.nextafter(np.unique(np.concatenate(groups)), 2)
    shares = np.max([1 - np.searchsorted(each, bars) / len(each) for each in groups], axis=0)
    return max(LOWEST, float(bars[np.flatnonzero(shares <= FALSE)[0]]))


def _pairs(picks: Sequence[Sequence[Pick]]) -> list[_Made]:
    """Examples of two tasks, of one fold, with an input of one of the two or without."""
    order = sorted(
        ((a, b, fold) for fold in range(FOLDS) for a, b in permutations(range(len(picks)), 2)),
        key=lambda each: _number(*each),
    )
    made = []
    for a, b, fold in order:
        first, second = (_of(picks[n], EXAMPLE, fold) for n in (a, b))
        if not first or not second:
            continue
        turn = _number(a, b, fold)
        inputs = _of(picks[(a, b)[turn % 2]], INPUT, fold)
        one, other = (tidy(each[turn // 7 % len(each)]) for each in (first, second))
        joint = JOINTS[turn // 11 % len(JOINTS)]
        joined: tuple[tuple[str, int | None], ...] = ((one.rstrip(" .?!;"), a), (joint, None), (other, b))
        way = turn // 13 % 3 if inputs else 0
        content = tidy(inputs[turn // 17 % len(inputs)]) if inputs else ""
        if way == 1:
            joined = (*joined, ("\n", None), (content, None))
        elif way == 2:
            joined = ((content, None), ("\n", None), *joined)
        made.append(_Made(joined, fold))
        if len(made) == PAIRS:
            break
    return made


def _alone(picks: Sequence[Sequence[Pick]]) -> list[_Made]:
    """One example, alone and beside inputs of its own task and of another."""
    most = max(1, ALONE // (len(picks) * (1 + BESIDE)))
    made = []
    for n, mine in enumerate(picks):
        examples = sorted((p for p in mine if p.kind == EXAMPLE), key=lambda p: _number(n, p.text))[:most]
        for example in examples:
            words: tuple[str, int | None] = (tidy(example.text), n)
            made.append(_Made((words,), example.fold))
            for turn in range(BESIDE):
                number = _number(n, turn, example.text)
                others = [m for m in range(len(picks)) if m != n]
                whose = n if turn < BESIDE - 1 else others[number % len(others)]
                inputs = _of(picks[whose], INPUT, example.fold)
                if inputs:
                    content: tuple[str, int | None] = (tidy(inputs[number // 7 % len(inputs)]), None)
                    above, below = (words, content) if turn % 2 else (content, words)
                    made.append(_Made((above, ("\n", None), below), example.fold))
    return made


def _inputs(picks: Sequence[Sequence[Pick]]) -> list[_Made]:
    most = max(1, ALONE // len(picks))
    return [
        _Made(((tidy(pick.text), None),), pick.fold)
        for mine in picks
        for pick in [each for each in mine if each.kind == INPUT][:most]
    ]


def _words(task: RouterTask) -> list[str]:
    """What else says what a task does."""
    return [text for text in (task.description, task.name.replace("-", " ")) if text.strip()]


def _of(picks: Sequence[Pick], kind: int, fold: int) -> list[str]:
    return [pick.text for pick in picks if pick.kind == kind and pick.fold == fold]


def _read_all(base: Base, ground: Ground, made: Sequence[_Made], none: int) -> list[_Read]:
    renderer = Renderer.of(base.tokenizer)
    found = []
    for start in range(0, len(made), CHUNK):
        chunk = made[start : start + CHUNK]
        ids = [renderer.job_ids(each.text)[: 1 + POOLED_TOKENS] for each in chunk]
        states = run_trunk(base.model, max(ground.taps), ids)
        found += [
            _read(ground, each, state, renderer, none) for each, state in zip(chunk, states, strict=True)
        ]
    return found


def _read(ground: Ground, made: _Made, state: TrunkState, renderer: Renderer, none: int) -> _Read:
    places, pooled = read_clauses(made.text, state, renderer)
    rows = placed(pooled, ground.frame)
    labels = [made.asked_in(*place, none) for place in places]
    kept = [n for n, label in enumerate(labels) if label is not None]
    learned, known = rows[kept], [label for label in labels if label is not None]
    if len(made.pieces) == 1:
        (asked,) = made.asks or {none}
        learned = np.concatenate([learned, placed(mean_state(state), ground.frame)])
        known.append(asked)
    return _Read(made, rows if len(rows) > 1 else rows[:0], learned, np.array(known, np.int64))


def _fit(
    learned: Sequence[_Read], ground: Ground, asked: Sequence[RouterTask], without: int | None
) -> Compounds | None:
    """The map over all that is not held out; None where too few tasks are left."""
    outside = ground.corpus.rows[ground.corpus.folds != without][:, own_block(ground.frame)]
    mine = [each for each in learned if each.made.fold != without]
    rows = np.concatenate([outside.astype(np.float32) / STEPS, *(each.learned for each in mine)])
    labels = np.concatenate([np.full(len(outside), len(asked)), *(each.labels for each in mine)])
    if len(np.unique(labels)) < 3:
        return None
    fitted = LogisticRegression(C=PULL, max_iter=1000).fit(rows, labels)
    weights = np.zeros((len(asked) + 1, fitted.coef_.shape[1]), np.float32)
    bias = np.full(len(asked) + 1, -1e4, np.float32)  # of tasks that it has not seen
    weights[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
    return Compounds(tuple(each.name for each in asked), weights, bias, 2.0)


def _judged(model: Compounds | None, read: _Read) -> tuple[float, bool]:
    """How surely a job asks for two tasks, and whether these are the right ones."""
    asked = [] if model is None or not len(read.rows) else model.asked(read.rows)
    if len(asked) < 2:
        return 0.0, False
    return asked[1][2], {task for task, _, _ in asked[:2]} == read.made.asks


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()[:6])
