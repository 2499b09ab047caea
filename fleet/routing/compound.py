"""Jobs that ask for several tasks at once: what each clause of a job asks for. Knows no files and no hosts.

What a clause (``fleet.routing.clauses``) asks for is read from the trunk's states of its tokens, which are
there already: a linear map gives the probability of each task, and of none, which is what content is. A job
is compound where two of its clauses ask for two tasks, each with a probability of ``bar`` at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from fleet.engine.prompt import Renderer
from fleet.engine.trunk import POOLED_TOKENS, TrunkState
from fleet.routing.clauses import clauses
from fleet.routing.decision import Decision
from fleet.routing.features import POOLS, Floats, Frame

__all__ = ["Claim", "Compounds", "mean_state", "own_block", "placed", "read_clauses"]

FEWEST_TOKENS = 2
"""Of a clause: "please" or "asap" asks for nothing by itself."""

Place = tuple[int, int]
"""Begin and end of a clause, in characters."""


@dataclass(frozen=True, slots=True)
class Claim:
    """That a clause asks for a task."""

    task: str
    words: str
    probability: float


@dataclass(frozen=True, slots=True)
class Compounds:
    """Recognises compound jobs over some tasks."""

    tasks: tuple[str, ...]
    weights: NDArray[np.float32]
    """``[tasks + 1, D]``: of each task, and last of none,"""
    bias: NDArray[np.float32]
    """``[tasks + 1]``: over clauses as ``placed`` gives them."""
    bar: float
    """Probability that each task must reach; above 1 no job is compound."""

    def __post_init__(self) -> None:
        if len(self.tasks) < 2 or {len(self.weights), len(self.bias)} != {len(self.tasks) + 1}:
            raise ValueError("compound jobs need two tasks, a row of weights for each, and one for none")
        if not self.bar > 0:
            raise ValueError(f"the bar of compound jobs is a probability above zero, not {self.bar}")

    def probabilities(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of clauses ``[n, D]``: ``[n, tasks]``; what is left to 1 is that of none."""
        logits = rows @ self.weights.T + self.bias
        return np.asarray(softmax(logits.astype(np.float64), axis=1)[:, :-1])

    def asked(self, rows: NDArray[np.float32]) -> list[tuple[int, int, float]]:
        """Of a job's clauses ``[n, D]``: each task that one asks for before any other task, the clause that
        does so most surely, and its probability; surest first."""
        best: dict[int, tuple[int, float]] = {}
        for clause, chances in enumerate(self.probabilities(rows)):
            task = int(chances.argmax())
            if chances[task] > best.get(task, (0, 0.0))[1]:
                best[task] = clause, float(chances[task])
        found = [(task, clause, chance) for task, (clause, chance) in best.items()]
        return sorted(found, key=lambda each: (-each[2], each[0]))

    def seek(
        self, decision: Decision, text: str, state: TrunkState, frame: Frame, renderer: Renderer
    ) -> tuple[Decision, tuple[Claim, ...]]:
        """The decision, or that the job is compound, with its claims in the order in which it makes them.

        ``state`` is of ``text``, as the router reads it.
        """
        if decision.kind == "abstain" and decision.cause not in ("no_fit", "too_long"):
            return decision, ()
        places, pooled = read_clauses(text, state, renderer)
        if len(places) < 2:
            return decision, ()
        asked = [each for each in self.asked(placed(pooled, frame)) if each[2] >= self.bar]
        if len(asked) < 2:
            return decision, ()
        claims = tuple(
            Claim(self.tasks[task], text[slice(*places[clause])], chance)
            for task, clause, chance in sorted(asked, key=lambda each: each[1])
        )
        return self._compound(decision, claims), claims

    def _compound(self, decision: Decision, claims: Sequence[Claim]) -> Decision:
        each = " and ".join(f"{claim.task} ({claim.probability:.2f})" for claim in claims)
        return replace(
            decision,
            kind="compound",
            task=None,
            tasks=tuple(claim.task for claim in claims),
            confidence=min(claim.probability for claim in claims),
            reason=f"the job needs {each}: at least {self.bar:.3g} is asked for of each",
            cause=None,
        )

    def outline(self, claims: Sequence[Claim]) -> list[dict[str, Any]]:
        """For people: which words ask for which task."""
        return [
            {
                "task": each.task,
                "words": each.words,
                "probability": round(each.probability, 4),
                "least": round(self.bar, 4),
            }
            for each in claims
        ]


def read_clauses(text: str, state: TrunkState, renderer: Renderer) -> tuple[list[Place], NDArray[np.float32]]:
    """Of one text and its trunk state: its clauses, and the mean of the last states in each ``[n, D]``.

    Short ones are left out; there are none where the text is one clause only.
    """
    found = clauses(text)
    places, spans = [], []
    if len(found) > 1:
        edges = renderer.places(text, [edge for place in found for edge in place])
        for place, begin, end in zip(found, edges[::2], edges[1::2], strict=True):
            first, last = 1 + begin, min(1 + end, len(state.ids))  # <bos> stands before them
            if last - first >= FEWEST_TOKENS:
                places.append(place)
                spans.append((first, last))
    if not spans:
        return [], np.empty((0, state.hidden.shape[1]), np.float32)
    return places, _means(state.hidden, spans)


def mean_state(state: TrunkState) -> NDArray[np.float32]:
    """The same of the whole text, as if it were one clause: ``[1, D]``."""
    return _means(state.hidden, [(min(1, len(state.ids) - 1), min(len(state.ids), 1 + POOLED_TOKENS))])


def _means(hidden: Tensor, spans: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """Means of rows ``[first, last)`` of ``[T, D]``: one product for all."""
    mask = np.zeros((len(spans), len(hidden)), np.float32)
    for n, (first, last) in enumerate(spans):
        mask[n, first:last] = 1 / (last - first)
    with torch.inference_mode():
        found: NDArray[np.float32] = (torch.from_numpy(mask).to(hidden.device) @ hidden.float()).cpu().numpy()
        return found


def own_block(frame: Frame) -> slice:
    """Where the means of the last tapped layer lie in the router's space."""
    width = len(frame.centre) // frame.blocks
    begin = (frame.blocks - len(POOLS) + POOLS.index("mean")) * width
    return slice(begin, begin + width)


def placed(pooled: Floats, frame: Frame) -> NDArray[np.float32]:
    """Means of the last tapped layer in their part of the router's space, in standard deviations."""
    here = own_block(frame)
    away = pooled - frame.centre[here]
    unit = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    return np.asarray(unit / frame.spread[here], dtype=np.float32)
