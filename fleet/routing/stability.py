"""How often small changes to a job change the router's word on it: probes at every fit. Sets nothing.

A probe is a held-out training input and the same input changed in one way (``fleet.routing.perturb``).
Both are judged by a model that saw neither, though it saw other inputs changed in the same ways. A *flip*
is another word: another task, or a route that becomes a question or an abstention, or the reverse.
*Astray* is the flip that costs: routed, and to a task that is not the input's own, where the unchanged
input was not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fleet.routing.budget import Thresholds
from fleet.routing.calibrate import Scale
from fleet.routing.evidence import INPUT, Pick
from fleet.routing.heldout import Changed
from fleet.routing.judged import Judged
from fleet.routing.perturb import KINDS, perturbed

__all__ = ["WAYS", "flips", "pick_changes"]

CHANGED = 12
"""Inputs of a task that are changed, each in every way."""
SEED = 0
LANGUAGE = "another language"
WAYS = (*sorted(KINDS), LANGUAGE)


def pick_changes(picks: Sequence[Pick], languages: Sequence[str | None]) -> list[tuple[int, int, str]]:
    """Some inputs changed in every way: place of the input, place of the way in ``WAYS``, changed text.

    Another language stands in for a translation, where a task knows several: an input of the same fold in
    another language, so that its flips tell how unevenly the router knows the languages.
    """
    inputs = [n for n, pick in enumerate(picks) if pick.kind == INPUT]
    found = []
    for n in inputs[:CHANGED]:
        for way, kind in enumerate(WAYS[:-1]):
            if (text := perturbed(kind, picks[n].text, SEED)) is not None:
                found.append((n, way, text))
        other = next(
            (
                m
                for m in inputs
                if None not in (languages[n], languages[m])
                and languages[m] != languages[n]
                and picks[m].fold == picks[n].fold
            ),
            None,
        )
        if other is not None:
            found.append((n, len(WAYS) - 1, picks[other].text))
    return found


def flips(changed: Changed, scale: Scale, names: Sequence[str], thresholds: Thresholds) -> dict[str, float]:
    """Share of changed rows that flip, by way and in all; and of those that go astray."""
    before, after = (
        _word(Judged.of(scale.fused(views), scale, changed.truth), thresholds, names)
        for views in (changed.before, changed.after)
    )
    lost = (before >= 0) & (before != changed.truth)
    astray = (after >= 0) & (after != changed.truth) & np.logical_not(lost)
    figures = {}
    for way, name in enumerate(WAYS):
        mine = changed.ways == way
        if mine.any():
            slug = name.replace(" ", "_")
            figures[f"flip_{slug}"] = float((before != after)[mine].mean())
            figures[f"astray_{slug}"] = float(astray[mine].mean())
    if len(before):
        figures["flip_rate"] = float((before != after).mean())
        figures["astray_rate"] = float(astray.mean())
    return figures


def _word(rows: Judged, thresholds: Thresholds, names: Sequence[str]) -> NDArray[np.int64]:
    """Column of the task it is routed to, -1 where it is asked back, -2 where nothing fits."""
    routed = rows.routed(thresholds, names)
    return np.where(routed, rows.column, np.where(rows.fit >= thresholds.fit, -1, -2)).astype(np.int64)
