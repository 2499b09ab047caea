"""Rules between tasks: shared rows, and tasks whose jobs look alike. Knows nothing of the router itself."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from fleet.data.duplicates import normal
from fleet.data.rows import Row, TaskRows
from fleet.errors import Fault
from fleet.manifest import Manifest

__all__ = ["alike_faults", "shared_row_faults"]

Fleet = Mapping[str, tuple[Manifest, TaskRows]]

CONFUSED = 0.25
"""Share of held-out jobs nearer to another task's centre than to their own at which we warn."""

_SAMPLE = 500
_FEWEST = 10


def shared_row_faults(fleet: Fleet) -> Iterator[Fault]:
    """Evaluation rows of one task that are training rows of another, exactly."""
    trained: dict[str, list[tuple[str, Row]]] = {}
    for name, (_, rows) in fleet.items():
        for row in rows.train:
            trained.setdefault(normal(row), []).append((name, row))
    for name, (_, rows) in fleet.items():
        for row in rows.eval:
            for other, twin in trained.get(normal(row), []):
                if other == name:
                    continue
                message = (
                    f"is also a training row of {other} ({twin.place}), which flatters the router: drop one"
                )
                yield Fault("eval-row-in-other-train", message, row.file, row.line, severity="warning")


def alike_faults(fleet: Fleet) -> Iterator[Fault]:
    """Pairs of tasks that a router could hardly tell apart by their words.

    Each task's centre is the mean TF-IDF vector of its training inputs; of its evaluation inputs, those
    that lie nearer to the other task's centre count as confused. Centres are compared as directions from
    their common middle; words that all tasks share would otherwise decide for the task of shortest texts.
    """
    samples = {name: (_sample(rows.train), _sample(rows.eval)) for name, (_, rows) in fleet.items()}
    names = [name for name, texts in samples.items() if min(map(len, texts)) >= _FEWEST]
    if len(names) < 2:
        return
    train, held = zip(*(samples[name] for name in names), strict=True)
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+")
    try:
        vectors.fit([text for texts in train for text in texts])
    except ValueError:  # no word anywhere
        return
    centres = np.stack([np.asarray(vectors.transform(texts).mean(axis=0)).ravel() for texts in train])
    middle = centres.mean(axis=0)
    centres = centres - middle
    norms = np.linalg.norm(centres, axis=1, keepdims=True)
    centres = centres / np.where(norms == 0, 1, norms)
    confused = np.zeros((len(names), len(names)))
    for index, texts in enumerate(held):
        scores = vectors.transform(texts) @ centres.T - centres @ middle
        confused[index] = (scores >= scores[:, [index]]).mean(axis=0)
    for first in range(len(names)):
        for second in range(first + 1, len(names)):
            share = (confused[first, second] + confused[second, first]) / 2
            if share >= CONFUSED:
                message = (
                    f"{names[first]} and {names[second]} have jobs that look alike ({share:.0%} of held-out "
                    "jobs are nearer to the other): name the task on the job, or merge the tasks"
                )
                here = f"{fleet[names[first]][0].folder}/task.yaml"
                yield Fault("tasks-alike", message, here, value=names[second], severity="warning")


def _sample(rows: Sequence[Row]) -> list[str]:
    texts = [text for row in rows if (text := normal(row))]
    return texts if len(texts) <= _SAMPLE else random.Random(0).sample(texts, _SAMPLE)
