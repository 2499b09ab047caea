"""Why the router decides on a job as it does, in figures that a person can follow. Knows no models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fleet.routing.evidence import EXAMPLE
from fleet.routing.features import Floats, stack
from fleet.routing.head import Router

__all__ = ["explain"]


def explain(router: Router, job: Mapping[int, Tensor] | Floats, *, neighbours: int = 3) -> dict[str, Any]:
    """Of one job, as ``TrunkState.means`` or raw features ``[D]``: a JSON-able outline."""
    raw = job[None] if isinstance(job, np.ndarray) else stack([job], router.taps)
    (decision,) = router.decide(raw, top=len(router.tasks))
    outline: dict[str, Any] = {"decision": decision.kind, "reason": decision.reason}
    if decision.fit is None:
        return outline
    placed = router.ground.frame.place(raw)
    fits = dict(zip(router.tasks, router.discriminant.scores(placed)[0].tolist(), strict=True))
    ranked = decision.scores
    thresholds = router.thresholds
    outline["tasks"] = [
        {"task": task, "probability": round(chance, 4), "fit": round(fits[task], 2)}
        for task, chance in ranked
    ]
    if len(ranked) > 1:
        outline["runner_up"] = ranked[1][0]
        outline["margin"] = round(ranked[0][1] - ranked[1][1], 4)
    outline["fit"] = round(decision.fit, 2)
    outline["thresholds"] = {
        "fit": round(thresholds.fit, 2),
        "probability": round(thresholds.probability, 4),
        "temperature": round(thresholds.temperature, 3),
        "origin": thresholds.origin,
    }
    outline["nearest"] = _nearest(router, placed, neighbours)
    return outline


def _nearest(router: Router, placed: Floats, count: int) -> list[dict[str, Any]]:
    """The training rows, of any task, at the smallest angle to the job in the router's space."""
    found: list[tuple[float, str, int]] = []
    job = placed[0].astype(np.float32)
    job /= max(float(np.linalg.norm(job)), 1e-12)
    for task, evidence in router.evidence.items():
        rows = evidence.rows.astype(np.float32)
        cosines = rows @ job / np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
        found += [(float(cosines[n]), task, int(n)) for n in np.argsort(-cosines, kind="stable")[:count]]
    found.sort(key=lambda each: (-each[0], each[1], each[2]))
    nearest = []
    for cosine, task, n in found[:count]:
        evidence = router.evidence[task]
        kind = "example" if evidence.kinds[n] == EXAMPLE else "row"
        nearest.append(
            {
                "task": task,
                "cosine": round(cosine, 4),
                "kind": kind,
                "text": evidence.snippets[n],
                "source": evidence.sources[n],
            }
        )
    return nearest
