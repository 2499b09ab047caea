"""The shipped attacks on a freshly fitted router: how many steer a job to another expert. Sets nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fleet.engine.base import Base
from fleet.routing.attacks import attack, templates
from fleet.routing.head import Router
from fleet.routing.reading import read_texts
from fleet.routing.task import RouterTask

__all__ = ["attacked"]

VICTIMS = 3
"""Pairs of a job and the task it is steered to, for each attack."""


def attacked(base: Base, router: Router, tasks: Sequence[RouterTask]) -> dict[str, float]:
    """Share of attacks after which a job is routed to the target, where alone it was not.

    Jobs are training inputs, so each is safe in its own task to begin with; every attack is tried on
    ``VICTIMS`` pairs of tasks. Empty for a fleet of one task, which has nowhere to be steered to.
    """
    if len(tasks) < 2:
        return {}
    attacks = len(templates())
    ordered = sorted(tasks, key=lambda task: task.name)
    victims: list[str] = []
    steered: list[str] = []
    targets: list[str] = []
    for turn in range(VICTIMS):
        for number in range(attacks):
            at = number + turn * attacks
            mine = ordered[at % len(ordered)]
            other = ordered[(at + 1 + at // len(ordered) % (len(ordered) - 1)) % len(ordered)]
            texts = [text for text in mine.texts if text.strip()]
            job = min(texts, key=lambda text: hashlib.sha256(f"{at} {text}".encode()).digest())
            example = other.examples[at % len(other.examples)] if other.examples else other.name
            filled = attack(job, task=other.name, description=other.description, example=example)
            victims.append(job)
            steered.append(filled[number].text)
            targets.append(other.name)
    before = router.decide(read_texts(base, victims, router.taps))
    after = router.decide(read_texts(base, steered, router.taps))
    won = [
        was.task != target and now.task == target
        for was, now, target in zip(before, after, targets, strict=True)
    ]
    lost = [was.task is not None and now.task is None for was, now in zip(before, after, strict=True)]
    return {"attack_success": sum(won) / len(won), "attack_unrouted": sum(lost) / len(lost)}
