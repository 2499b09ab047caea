"""The closed form on bytes: exact sums, the covariance, means that borrow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from fleet.routing.discriminant import Discriminant, Moments, gram, shrunk_covariance
from fleet.routing.evidence import FOLDS
from fleet.routing.features import LIMIT
from fleet.routing.lexical import grams
from fleet.routing.statistics import Sums


def rows(n: int, width: int, seed: int, middle: int = 0, spread: int = 20) -> NDArray[np.int8]:
    drawn = np.random.default_rng(seed).normal(middle, spread, (n, width))
    return np.clip(np.rint(drawn), -LIMIT, LIMIT).astype(np.int8)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=4), st.integers(2, 20), st.integers(0, 1000))
def test_covariance_from_sums_is_sklearns_on_centred_rows(sizes: list[int], width: int, seed: int) -> None:
    classes = [rows(n, width, seed + k, middle=10 * k) for k, n in enumerate(sizes)]
    moments = [Moments.of(each) for each in classes]
    products = np.sum([gram(each) for each in classes], axis=0)
    between = sum(np.outer(m.total, m.total) / m.n for m in moments)
    covariance, shrinkage = shrunk_covariance(
        sum(m.n for m in moments), products - between, sum(m.fourth for m in moments)
    )
    centred = np.concatenate([each - each.mean(0) for each in classes])
    theirs = LedoitWolf(assume_centered=True).fit(centred)
    np.testing.assert_allclose(covariance, theirs.covariance_, rtol=1e-4, atol=1e-4)
    assert shrinkage == pytest.approx(theirs.shrinkage_, abs=1e-5)


def test_products_are_whole_numbers_in_any_order_and_at_the_extreme() -> None:
    some = np.concatenate(
        [rows(1500, 5, 1), np.full((2500, 5), LIMIT, np.int8), -np.full((7, 5), LIMIT, np.int8)]
    )
    wide = some.astype(np.int64)
    assert np.array_equal(gram(some), (wide.T @ wide).astype(np.float64))
    shuffled = some[np.random.default_rng(0).permutation(len(some))]
    assert np.array_equal(gram(some), gram(shuffled))
    assert np.array_equal(gram(some) - gram(some[900:]), gram(some[:900]))


def test_a_task_of_few_rows_borrows_from_the_middle_of_all() -> None:
    """Without that, the noise of a mean of two rows keeps nearly all its jobs away."""
    middles = np.random.default_rng(5).normal(0, 12, (12, 60))

    def draw(task: int, n: int, seed: int) -> NDArray[np.int8]:
        noise = np.random.default_rng(seed).normal(0, 20, (n, 60))
        return np.clip(np.rint(middles[task] + noise), -LIMIT, LIMIT).astype(np.int8)

    background = rows(200, 60, 77)
    classes = [draw(task, 2 if task == 0 else 60, task) for task in range(12)]
    products = sum(map(gram, classes), gram(background))
    found = Discriminant.fit([Moments.of(each) for each in classes], Moments.of(background), products)
    right = (found.scores(draw(0, 400, 99)).argmax(1) == 0).mean()
    assert right > 0.5


@pytest.mark.parametrize("without", [None, 0, 3])
def test_sums_by_fold_are_those_of_the_rows_that_are_left(without: int | None) -> None:
    held = rows(40, 6, 3, middle=9)
    folds = np.random.default_rng(1).integers(0, FOLDS, 40)
    texts = [f"row {n} of {n % 7}" for n in range(40)]
    means = np.arange(6) < 3
    kept = np.arange(FOLDS) != without
    left = held[folds != without]
    sums = Sums.of(held, grams(texts), folds, means)
    wanted_of = Moments.of(left[:, means]), Moments.of(left)
    for found, wanted in zip(sums.moments(kept, means), wanted_of, strict=True):
        assert found.n == wanted.n
        assert np.array_equal(found.total, wanted.total)
        assert found.fourth == pytest.approx(wanted.fourth, rel=1e-5 if without is None else 0.1)
    counted = np.asarray(sums.grams[kept].sum(0)).ravel()
    assert np.array_equal(counted, np.asarray(grams(texts)[folds != without].sum(0)).ravel())
