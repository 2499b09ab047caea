"""Why the router decides on a job as it does, in figures that a person can follow. Knows no models."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import numpy as np

from fleet.routing.evidence import CROSSED, EXAMPLE, INPUT
from fleet.routing.features import POOLS, Bytes
from fleet.routing.head import Router
from fleet.routing.lexical import named_grams
from fleet.routing.reading import Readings

__all__ = ["explain"]

KINDS = {INPUT: "row", CROSSED: "example with a row", EXAMPLE: "example"}
WORDS = 6
"""Pieces of text that are named."""


def explain(
    router: Router, job: Readings, *, neighbours: int = 3, known: Collection[str] | None = None
) -> dict[str, Any]:
    """Of one job: a JSON-able outline; ``known`` are the tasks that may be routed to."""
    (decision,) = router.decide(job, known=known)
    outline: dict[str, Any] = {"decision": decision.kind, "reason": decision.reason}
    if decision.cause is not None:
        outline["cause"] = decision.cause
    if decision.fit is None:
        return outline
    placed = router.ground.frame.place(job.raw)
    scores = router.scores(job)
    fits, chances = scores[0], router.scale.probabilities(scores)[0]
    order = np.argsort(-fits, kind="stable")
    ranked = [(router.tasks[n], float(chances[n])) for n in order]
    thresholds = router.thresholds
    outline["tasks"] = [
        {"task": router.tasks[n], "probability": round(float(chances[n]), 4), "fit": round(float(fits[n]), 2)}
        | ({} if known is None or router.tasks[n] in known else {"answers": False})
        for n in order
    ]
    first = ranked[0][0]
    second = ranked[1][0] if len(ranked) > 1 else None
    if second is not None:
        outline["runner_up"] = second
        outline["margin"] = round(ranked[0][1] - ranked[1][1], 4)
    outline["fit"] = round(decision.fit, 2)
    outline["features"] = _features(router, job, placed, first, second)
    outline["thresholds"] = {
        "fit": round(thresholds.fit, 2),
        "probability": round(thresholds.least(first), 4),
        "temperature": round(router.scale.temperature, 3),
        "weights": {name: round(getattr(router.scale, name), 3) for name in ("means", "states", "letters")},
        "origin": thresholds.origin,
    }
    outline["held_out"] = {
        name: {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in asdict(router.fares[name]).items()
        }
        for name in (first, second)
        if name is not None
    }
    outline["nearest"] = _nearest(router, placed, neighbours)
    return outline


def _features(router: Router, job: Readings, placed: Bytes, first: str, second: str | None) -> dict[str, Any]:
    """How far each kind of feature speaks for the likeliest task against the next, or against text in
    general where there is no other; and the pieces of the text that speak most for and against."""
    a = router.tasks.index(first)
    b = None if second is None else router.tasks.index(second)
    dense, lexicon = router.dense, router.lexicon
    weights = dense.weights[a] - (0 if b is None else dense.weights[b])
    bias = float(dense.bias[a] - (0 if b is None else dense.bias[b]))
    parts = (placed[0] * weights).reshape(router.ground.frame.blocks, -1).sum(1)
    names = [f"layer {tap}, {pool}" for tap in router.taps for pool in POOLS]
    found = {name: round(float(part), 2) for name, part in zip(names, parts, strict=True)}
    found["constant"] = round(bias, 2)
    letters = lexicon.scores(job.grams)[0]
    found["letters"] = round(router.scale.letters * float(letters[a] - (0 if b is None else letters[b])), 2)
    column = lexicon.weights[:, a] - (0 if b is None else 1) * lexicon.weights[:, 0 if b is None else b]
    column = column.toarray().ravel()
    pieces: dict[str, float] = {piece: float(column[bucket]) for piece, bucket in named_grams(job.texts[0])}
    ordered = sorted(pieces.items(), key=lambda each: (-abs(each[1]), each[0]))
    return {
        "for": first,
        "against": "text in general" if second is None else second,
        "parts": found,
        "decided": max((name for name in found if name != "constant"), key=lambda name: found[name]),
        "pieces": {piece: round(value, 2) for piece, value in ordered[:WORDS] if value},
    }


def _nearest(router: Router, placed: Bytes, count: int) -> list[dict[str, Any]]:
    """The training rows, of any task, at the smallest angle to the job in the router's space."""
    found: list[tuple[float, str, int]] = []
    job = placed[0].astype(np.float32)
    job /= max(float(np.linalg.norm(job)), 1e-12)
    for task, evidence in router.evidence.items():
        rows = evidence.rows.astype(np.float32)
        cosines = rows @ job / np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
        found += [(float(cosines[n]), task, int(n)) for n in np.argsort(-cosines, kind="stable")[:count]]
    found.sort(key=lambda each: (-each[0], each[1], each[2]))
    return [_row(router, *each) for each in found[:count]]


def _row(router: Router, cosine: float, task: str, n: int) -> dict[str, Any]:
    evidence = router.evidence[task]
    return {
        "task": task,
        "cosine": round(cosine, 4),
        "kind": KINDS[evidence.kinds[n]],
        "text": evidence.snippets[n],
        "source": evidence.sources[n],
    }
