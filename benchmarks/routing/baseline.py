"""TF-IDF of words and pairs of words with logistic regression: what everybody tries first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.routing.marks import Doubles, Marks
from benchmarks.routing.stage import Row, columns

STRENGTHS = (10, 30)
"""Candidates for C."""


@dataclass(frozen=True, slots=True)
class Baseline:
    vectorizer: TfidfVectorizer
    model: LogisticRegression
    seconds: float
    """Of the fit that is used."""

    @classmethod
    def fit(cls, train: Sequence[Row], val: Sequence[Row] = ()) -> Baseline:
        """With the C that has most validation rows right; without such rows with the first."""
        texts, labels = columns(train)
        fits: list[Baseline] = []
        for strength in STRENGTHS if val else STRENGTHS[:1]:
            started = time.perf_counter()
            vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
            seen = vectorizer.fit_transform(texts)
            model = LogisticRegression(C=strength, max_iter=1000).fit(seen, labels)
            fits.append(cls(vectorizer, model, time.perf_counter() - started))
        if not val:
            return fits[0]
        held, truth = columns(val)
        return max(fits, key=lambda each: each.model.score(each.vectorizer.transform(held), truth))

    def marks(self, test: Sequence[str], beyond: Sequence[str]) -> Marks:
        chances = self._chances(test)
        strange = self._chances(beyond).max(1) if len(beyond) else np.empty(0)
        return Marks(self.model.classes_[chances.argmax(1)], chances.max(1), strange)

    def fits(self, texts: Sequence[str]) -> Doubles:
        return np.asarray(self._chances(texts).max(1))

    def _chances(self, texts: Sequence[str]) -> Doubles:
        return np.asarray(self.model.predict_proba(self.vectorizer.transform(texts)))
