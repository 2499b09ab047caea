"""A router from tasks' texts: trunk passes for what is new, the rest taken over. Knows no manifests."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from fleet.engine.base import Base
from fleet.engine.prompt import Renderer
from fleet.engine.trunk import run_trunk
from fleet.routing.background import load_background
from fleet.routing.evidence import Evidence, pick_rows
from fleet.routing.features import Floats, Frame, stack, taps_of
from fleet.routing.head import Ground, Router

__all__ = ["RouterTask", "fit_router"]

log = logging.getLogger(__name__)

DEPTH = 6
TOKENS = 1024
"""Tokens of a text that are read while fitting."""
CHUNK = 256
"""Texts whose trunk states are held at once."""


@dataclass(frozen=True, slots=True)
class RouterTask:
    """A task as the router learns it."""

    name: str
    texts: Sequence[str]
    """Canonical texts of its training inputs."""
    examples: Sequence[str]
    """How a person asks for it."""
    data_digest: str
    """Of texts and examples: the same digest means nothing to learn anew."""
    sources: Sequence[str]
    """Of each text: file and line."""

    def __post_init__(self) -> None:
        if not any(text.strip() for text in self.texts):
            raise ValueError(f"{self.name}: the router needs at least one text of a task")


def is_current(router: Router, fingerprint: str, depth: int) -> bool:
    """Whether a router was fitted over this base, a trunk of this depth and this release's background."""
    ground = router.ground
    return (ground.base_fingerprint, ground.taps, ground.digest) == (
        fingerprint,
        taps_of(depth),
        load_background().digest,
    )


def fit_router(
    base: Base, tasks: Sequence[RouterTask], *, previous: Router | None = None, depth: int = DEPTH
) -> Router:
    """Over exactly these tasks; those of ``previous`` whose data did not change are not computed again.

    ``depth`` is the trunk's. A ``previous`` over another base, depth or background is not used.
    """
    if not tasks:
        raise ValueError("a router needs at least one task")
    renderer = Renderer.of(base.tokenizer)
    taps = taps_of(depth)
    background = load_background()
    if previous is not None and not is_current(previous, base.fingerprint, depth):
        previous = None
    if previous is not None:
        ground = previous.ground
    else:
        log.info("router: reading %d background texts", len(background.texts))
        raw = _features(base, renderer, background.texts, depth, taps)
        blank = stack([run_trunk(base.model, depth, [[renderer.bos]], taps=taps)[0].means], taps)[0]
        frame = Frame.of(raw, blank)
        ground = Ground(base.fingerprint, taps, frame, frame.place(raw), background.groups, background.digest)
    evidence: dict[str, Evidence] = {}
    for task in tasks:
        if task.name in evidence:
            raise ValueError(f"two tasks are called {task.name}")
        held = None if previous is None else previous.evidence.get(task.name)
        if held is not None and held.digest == task.data_digest:
            evidence[task.name] = held
            continue
        picks = pick_rows(task.texts, task.examples, task.sources)
        log.info("router: reading %d texts of %s", len(picks), task.name)
        raw = _features(base, renderer, [pick.text for pick in picks], depth, taps)
        evidence[task.name] = Evidence.of(task.data_digest, picks, ground.frame.place(raw))
    return Router.build(ground, evidence)


def _features(
    base: Base, renderer: Renderer, texts: Sequence[str], depth: int, taps: Sequence[int]
) -> Floats:
    ids = [renderer.job_ids(text)[:TOKENS] for text in texts]
    means = []
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        means += [state.means for state in run_trunk(base.model, depth, chunk, taps=taps)]
    return stack(means, taps)
