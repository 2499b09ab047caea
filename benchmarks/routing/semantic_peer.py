"""The peer ``semantic-router`` 1.x, run by a Python of its own: ``python semantic_peer.py FOLDER``.

It wants other releases of packages that the project pins, so it lives in another environment, which has
``semantic-router`` and scipy and nothing of ours. ``FOLDER/rows.json`` holds texts and labels of ``train``,
``val``, ``test``, ``beyond_val`` and ``beyond``; every other ``FOLDER/*.npz`` holds vectors of the same rows,
which one encoder gives. Writes ``FOLDER/answers.json``.

Its setting is looked for: of every aggregation with several numbers of neighbours the one that has the
greatest sum of accuracy and AUROC on validation rows, out-of-scope ones included. Then ``fit()`` on the same
rows, as its documentation advises: what fits nothing is labelled None.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from scipy.sparse import csr_array
from scipy.stats import mannwhitneyu
from semantic_router import IndexedRouter, Route
from semantic_router.encoders import DenseEncoder, TfidfEncoder
from semantic_router.index import LocalIndex
from semantic_router.routers.base import run

SETTINGS = (("max", 5), *((way, most) for way in ("mean", "sum") for most in (5, 10, 20, 50)))
"""Aggregation and ``top_k``; the greatest score is the same whatever ``top_k``."""
MOST = max(most for _, most in SETTINGS)
BLOCK = 500
"""Texts that its TF-IDF encoder is given at once: it makes dense arrays."""
TIMED = 10
"""Queries by which its own index is timed."""


class Given(DenseEncoder):
    """An encoder that has encoded everything already."""

    vectors: dict[str, Any]

    def __call__(self, docs: list[str]) -> list[Any]:
        return [self.vectors[doc] for doc in docs]


class Words(DenseEncoder):
    """Its TF-IDF encoder, as the encoder that it must have: it is made for a second place beside one."""

    inner: Any

    def __call__(self, docs: list[str]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(docs), BLOCK):
            for each in self.inner(docs[start : start + BLOCK]):
                vector = np.zeros(len(self.inner.word_index), np.float32)
                vector[each.embedding[:, 0].astype(int)] = each.embedding[:, 1]
                found.append(vector)
        return found


class Kept(LocalIndex):
    """The cosines of its ``LocalIndex``, whose norms of all vectors are computed for every query.

    Here once, and what was found for a query is kept, so that trying another setting costs nothing; nor does
    ``fit()`` then, whose seconds are fewer than a user's.
    """

    unit: Any = None
    found: dict[bytes, Any] = Field(default_factory=dict)

    def add(self, *given: Any, **named: Any) -> None:
        super().add(*given, **named)
        unit = self.index / np.maximum(np.linalg.norm(self.index, axis=1, keepdims=True), 1e-12)
        self.unit = csr_array(unit) if (unit == 0).mean() > 0.5 else unit
        self.found.clear()

    def query(self, vector: Any, top_k: int = 5, **_: Any) -> tuple[Any, list[str]]:
        key = vector.tobytes()
        if key not in self.found:
            cosines = self.unit @ (vector / max(float(np.linalg.norm(vector)), 1e-12))
            best = np.argpartition(cosines, -min(MOST, len(cosines)))[-MOST:]
            best = best[np.argsort(cosines[best])]
            self.found[key] = cosines[best], [str(self.routes[n]) for n in best]
        scores, names = self.found[key]
        return scores[-top_k:], names[-top_k:]


def main(folder: Path) -> None:
    rows = json.loads((folder / "rows.json").read_text())
    answers = {}
    for name in ("tfidf", *sorted(each.stem for each in folder.glob("*.npz"))):
        routes = _routes(rows["train"])
        started = time.perf_counter()
        encoder = _words(routes) if name == "tfidf" else _given(folder / f"{name}.npz", rows)
        ready = time.perf_counter()
        index = Kept()
        IndexedRouter(encoder=encoder, routes=routes, index=index)
        built = time.perf_counter() - started if name == "tfidf" else time.perf_counter() - ready
        print(f"semantic-router, {name}: {len(index)} utterances", flush=True)
        answers[name] = {"build_seconds": built, **_judged(encoder, index, rows)}
    (folder / "answers.json").write_text(json.dumps(answers))


def _judged(encoder: Any, index: Kept, rows: dict[str, Any]) -> dict[str, Any]:
    texts, labels = rows["val"]
    beyond = rows["beyond_val"][0]
    tried = []
    for way, most in SETTINGS:
        router = IndexedRouter(encoder=encoder, index=index, aggregation=way, top_k=most)
        names, fit = _best(router, texts)
        _, strange = _best(router, beyond)
        right = float(np.mean(np.array(names) == np.array(labels)))
        above = float(mannwhitneyu(fit, strange).statistic) / (len(fit) * len(strange))
        tried.append((right + above, f"{way} of {most}", router))
    _, setting, router = max(tried, key=lambda each: each[0])
    started = time.perf_counter()
    router.fit([*texts, *beyond], [*labels, *[None] * len(beyond)])
    fitted = time.perf_counter() - started
    found = {}
    for part in ("val", "test", "beyond"):
        names, fit = _best(router, rows[part][0])
        found[part] = {"names": names, "fit": fit, "chance": router.calibrator(np.array(fit)).tolist()}
    return {"setting": setting, "fit_seconds": fitted, "query_ms": _query_ms(encoder, index, texts), **found}


def _best(router: IndexedRouter, texts: Sequence[str]) -> tuple[list[str], list[float]]:
    """The likeliest route of each and its score: what its ``evaluate()`` looks at, in one batch."""
    scored = run(router._scores_many(texts))
    names = [max(each, key=each.__getitem__) for each in scored]
    return names, [float(each[name]) for each, name in zip(scored, names, strict=True)]


def _query_ms(encoder: Any, index: Kept, texts: Sequence[str]) -> float:
    """Of its own index over the same vectors."""
    own = LocalIndex(index=index.index, routes=index.routes, utterances=index.utterances)
    vectors = [np.array(each) for each in encoder(list(texts[:TIMED]))]
    started = time.perf_counter()
    for vector in vectors:
        own.query(vector, top_k=5)
    return (time.perf_counter() - started) / len(vectors) * 1e3


def _routes(train: tuple[list[str], list[str]]) -> list[Route]:
    by_name: dict[str, list[str]] = {}
    for text, name in zip(*train, strict=True):
        by_name.setdefault(name, []).append(text)
    return [Route(name=name, utterances=texts) for name, texts in sorted(by_name.items())]


def _words(routes: list[Route]) -> Words:
    inner = TfidfEncoder()
    inner.fit(routes)
    return Words(name="tfidf", inner=inner)


def _given(file: Path, rows: dict[str, Any]) -> Given:
    with np.load(file) as held:
        vectors = {
            text: vector for part in rows for text, vector in zip(rows[part][0], held[part], strict=True)
        }
    return Given(name=file.stem, vectors=vectors)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
