"""What a classical classifier makes of a task: the bar that an expert has to clear.

TF-IDF over words and character n-grams with logistic regression, scikit-learn's defaults otherwise.
Only classification has one. Knows nothing of models or registries.
"""

from __future__ import annotations

from collections.abc import Sequence


def tfidf_answers(texts: Sequence[str], labels: Sequence[str], jobs: Sequence[str]) -> list[str]:
    """Train on ``texts`` and ``labels``, answer ``jobs``. Raises ``ValueError`` with one label only."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    model = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            # Inside word borders, so that languages without spaces have features at all.
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True),
        ),
        LogisticRegression(max_iter=1000, C=10.0, random_state=0),
    )
    model.fit(list(texts), list(labels))
    return [str(answer) for answer in model.predict(list(jobs))]
