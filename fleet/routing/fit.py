"""A router from tasks' texts: trunk passes for what is new, the rest taken over. Knows no manifests."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import vstack

from fleet.engine.base import Base
from fleet.engine.prompt import Renderer
from fleet.engine.trunk import run_trunk
from fleet.routing.background import NOBODY, Foreign, load_background
from fleet.routing.budget import Budget
from fleet.routing.content import content_digest
from fleet.routing.evidence import FOLDS, Changes, Evidence, fold_of_group, pick_rows
from fleet.routing.features import POOLS, Frame, stack, taps_of
from fleet.routing.head import Ground, Router
from fleet.routing.joining import fit_compounds
from fleet.routing.language import identify, is_multilingual
from fleet.routing.reading import read_texts
from fleet.routing.siege import attacked
from fleet.routing.stability import pick_changes
from fleet.routing.statistics import Corpus
from fleet.routing.task import RouterTask

__all__ = ["RouterTask", "fit_router"]

log = logging.getLogger(__name__)

DEPTH = 6


def is_current(router: Router, fingerprint: str, depth: int) -> bool:
    """Whether a router was fitted over this base, a trunk of this depth and this release's background."""
    ground = router.ground
    return (ground.base_fingerprint, ground.taps, ground.digest) == (
        fingerprint,
        taps_of(depth),
        load_background().digest,
    )


def fit_router(
    base: Base,
    tasks: Sequence[RouterTask],
    *,
    previous: Router | None = None,
    depth: int = DEPTH,
    budget: Budget | None = None,
    foreign: Foreign = NOBODY,
) -> Router:
    """Over exactly these tasks; those of ``previous`` whose data did not change are not computed again.

    ``depth`` is the trunk's. A ``previous`` over another base, depth or background is not used.
    ``foreign`` are jobs that no task may take.
    """
    if not tasks:
        raise ValueError("a router needs at least one task")
    if previous is not None and not is_current(previous, base.fingerprint, depth):
        previous = None
    if previous is not None and previous.ground.own_digest == foreign.digest:
        ground = previous.ground
    else:  # in the same space, so what is known of tasks holds
        ground = told_of(base, lay_ground(base, depth) if previous is None else previous.ground, foreign)
    evidence: dict[str, Evidence] = {}
    for task in tasks:
        if task.name in evidence:
            raise ValueError(f"two tasks are called {task.name}")
        held = None if previous is None else previous.evidence.get(task.name)
        if held is not None and held.digest == task.data_digest:
            evidence[task.name] = held
        else:
            evidence[task.name] = gather(base, ground, task)
    router = Router.build(ground, evidence, budget)
    log.info("router: trying the attacks")
    compounds, compound_figures = fit_compounds(base, ground, tasks)
    figures = {**router.metrics, **attacked(base, router, tasks), **compound_figures}
    return replace(router, metrics=figures, compounds=compounds)


def lay_ground(base: Base, depth: int) -> Ground:
    """The space that a trunk of this depth gives, and the packaged background in it."""
    background = load_background()
    taps = taps_of(depth)
    log.info("router: reading %d background texts", len(background.texts))
    read = read_texts(base, background.texts, taps)
    renderer = Renderer.of(base.tokenizer)
    blank = stack([run_trunk(base.model, depth, [[renderer.bos]], taps=taps)[0].pooled], taps)[0]
    frame = Frame.of(read.raw, blank, len(POOLS) * len(taps))
    corpus = Corpus(frame.place(read.raw), read.grams, fold_of_group(background.groups), frame.means)
    return Ground(base.fingerprint, taps, frame, corpus, background.digest)


def told_of(base: Base, ground: Ground, foreign: Foreign) -> Ground:
    """The same space and background, with these jobs of nobody in the place of those it had."""
    corpus = ground.corpus
    common = len(corpus.folds) - corpus.own
    rows, letters, folds = corpus.rows[:common], corpus.grams[:common], corpus.folds[:common]
    if foreign.texts:
        log.info("router: reading %d jobs of nobody", len(foreign.texts))
        own = read_texts(base, foreign.texts, ground.taps)
        rows = np.concatenate([rows, ground.frame.place(own.raw)])
        letters = vstack([letters, own.grams], format="csr")
        folds = np.concatenate([folds, [content_digest(text) % FOLDS for text in foreign.texts]])
    changed = Corpus(rows, letters, folds.astype(np.int64), corpus.means, len(foreign.texts))
    return replace(ground, corpus=changed, own_digest=foreign.digest)


def gather(base: Base, ground: Ground, task: RouterTask) -> Evidence:
    """A task's evidence in this space."""
    picks = pick_rows(task.texts, task.examples, task.sources)
    log.info("router: reading %d texts of %s", len(picks), task.name)
    read = read_texts(base, [pick.text for pick in picks], ground.taps)
    languages = [None if (found := identify(pick.text)) is None else found[0] for pick in picks]
    counted = Counter(language for language in languages if language is not None)
    several = languages if is_multilingual(counted) else [None] * len(picks)
    changes = None
    if changed := pick_changes(picks, several):
        log.info("router: reading %d changed texts of %s", len(changed), task.name)
        origins, ways, texts = zip(*changed, strict=True)
        after = read_texts(base, texts, ground.taps)
        changes = Changes(
            ground.frame.place(after.raw), after.grams, np.array(origins, np.int32), np.array(ways, np.int32)
        )
    return Evidence.of(
        task.data_digest,
        picks,
        ground.frame.place(read.raw),
        read.grams,
        read.tokens,
        dict(counted),
        changes,
    )
