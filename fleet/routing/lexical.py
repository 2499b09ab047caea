"""What the letters of a job say: naive Bayes over its character n-grams. Knows no trunk and no files.

Counts of a task are plain sums over its rows, so adding, taking away and folding are exact. Against the
trunk's states, letters are robust where words are rare: names, codes, a product's own vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import HashingVectorizer

__all__ = ["BUCKETS", "Lexicon", "grams", "named_grams"]

BUCKETS = 1 << 18
"""What n-grams are hashed to."""
LENGTHS = (2, 5)
"""Of n-grams, inside words and at their edges, in lower case."""
CHARACTERS = 2048
"""Of a job that are read: their n-grams count as full evidence many times over (``EVIDENCE``)."""
SMOOTHING = 200.0
"""N-grams of text in general that every task is taken to have seen besides its own."""
EVIDENCE = 128
"""N-grams that count as evidence of their own: a text of more says no more for being longer."""


@cache
def _vectorizer() -> HashingVectorizer:
    return HashingVectorizer(
        analyzer="char_wb",
        ngram_range=LENGTHS,
        n_features=BUCKETS,
        norm=None,
        alternate_sign=False,
        binary=True,
        dtype=np.float32,
    )


def grams(texts: Sequence[str]) -> csr_matrix:
    """Which n-grams occur in each of n texts: ``[n, BUCKETS]`` of ones, indices in order."""
    if not len(texts):
        return csr_matrix((0, BUCKETS), dtype=np.float32)
    found: csr_matrix = _vectorizer().transform([_clean(text) for text in texts])
    found.sort_indices()
    return found


def _clean(text: str) -> str:
    return text[:CHARACTERS].encode("utf-8", "replace").decode()


def named_grams(text: str) -> list[tuple[str, int]]:
    """The n-grams of one text, as they are written, with their place in ``grams``."""
    vectorizer = _vectorizer()
    pieces = list(dict.fromkeys(vectorizer.build_analyzer()(_clean(text))))
    hashed = FeatureHasher(BUCKETS, input_type="string", alternate_sign=False)
    buckets = hashed.transform([[piece] for piece in pieces]).indices if pieces else []
    return [(piece, int(bucket)) for piece, bucket in zip(pieces, buckets, strict=True)]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Log-odds of each n-gram in a task against all text, smoothed towards all text.

    ``log((c + s q) / (n + s)) - log q``, where ``c`` of a task's ``n`` n-grams are this one, ``q`` is its
    share in everything, and ``s`` the smoothing (a Dirichlet prior; Zhai and Lafferty 2001): zero is
    stored for what a task never saw.
    """

    weights: csr_matrix
    """``[BUCKETS, tasks]``: ``log(1 + c / (s q))``."""
    unseen: NDArray[np.float64]
    """``[tasks]``: ``log(s / (n + s))``, what any n-gram adds besides."""

    @classmethod
    def fit(cls, counts: csr_matrix, background: NDArray[np.float64]) -> Lexicon:
        """From how many rows of each task hold each n-gram ``[tasks, BUCKETS]``, and of the background
        ``[BUCKETS]``."""
        everything = np.asarray(counts.sum(0), dtype=np.float64).ravel() + background + 0.1
        share = everything / everything.sum()
        weights = counts.T.tocsr().astype(np.float64)
        rows = np.repeat(np.arange(BUCKETS), np.diff(weights.indptr))
        weights.data = np.log1p(weights.data / (SMOOTHING * share[rows]))
        seen = np.asarray(counts.sum(1), dtype=np.float64).ravel()
        return cls(weights.astype(np.float32), np.log(SMOOTHING / (seen + SMOOTHING)))

    def scores(self, found: csr_matrix) -> NDArray[np.float64]:
        """Of ``grams`` ``[n, BUCKETS]``: their mean log-odds ``[n, tasks]``, times the root of how many
        there are, since neighbours overlap and do not count in full."""
        many = np.diff(found.indptr)
        mean = (found @ self.weights).toarray() / np.maximum(many, 1)[:, None] + self.unseen
        return np.asarray(mean * np.sqrt(np.minimum(many, EVIDENCE))[:, None], dtype=np.float64)
