"""A router's rows under all that it measures, each by a model that had not seen it. Sets nothing."""

from __future__ import annotations

import numpy as np

from fleet.routing.collisions import Held
from fleet.routing.evidence import FOLDS, INPUT
from fleet.routing.head import Router
from fleet.routing.statistics import Statistics

__all__ = ["judge_router"]


def judge_router(router: Router) -> dict[str, Held]:
    """Inputs of each task, in the order of ``evidence.pick_rows``."""
    corpus = router.ground.corpus
    statistics = router.statistics or Statistics.of(router.evidence, corpus)
    inputs = {name: np.array(each.kinds) == INPUT for name, each in router.evidence.items()}
    scores = {name: np.full((len(mask), len(router.tasks)), np.nan) for name, mask in inputs.items()}
    for fold in range(FOLDS):
        try:
            model = statistics.model(without=fold)
        except ValueError:  # nothing is left to fit on
            continue
        dense = router.scale.merged(model, corpus.means)
        columns = np.array([router.tasks.index(name) for name in model.names], np.int64)
        for name, each in router.evidence.items():
            here = np.flatnonzero((np.array(each.folds) == fold) & inputs[name])
            if len(here):
                letters = router.scale.letters * model.lexicon.scores(each.grams[here])
                scores[name][np.ix_(here, columns)] = dense.scores(each.rows[here]) + letters
    return {name: Held(tuple(range(int(mask.sum()))), scores[name][mask]) for name, mask in inputs.items()}
