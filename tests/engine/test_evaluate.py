"""Metrics against scikit-learn and by hand, intervals that behave, calibration, the head's loss."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from fleet.engine.decode import Completion
from fleet.engine.evaluate import confidence_at, fit_temperature, measure, measure_perplexity
from fleet.engine.gemma import Gemma
from fleet.engine.loss import head_loss

LABELS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2, max_size=30)


@settings(max_examples=15, deadline=None)
@given(LABELS)
def test_macro_f1_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    wanted, given_ = zip(*pairs, strict=True)
    measured = measure("macro_f1", wanted, given_)
    labels = sorted({*wanted, *given_})
    expected = f1_score(wanted, given_, labels=labels, average="macro", zero_division=0)
    assert math.isclose(measured.value, expected, abs_tol=1e-9)
    assert 0 <= measured.low <= measured.high <= 1
    assert measured.rows == tuple(float(w == g) for w, g in pairs)


def test_span_f1_counts_spans_with_their_type() -> None:
    wanted = [{"people": ["Ann", "Bo"], "places": []}, {"people": [], "places": []}]
    given_ = [{"people": ["Ann"], "places": ["Bo"]}, {"people": [], "places": []}]
    measured = measure("span_f1", wanted, given_)
    assert measured.value == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert measured.rows == pytest.approx((0.5, 1.0))


def test_exact_fields_is_the_share_of_fields_that_are_right() -> None:
    wanted = [{"a": 1, "b": [{"c": "x"}], "d": None}]
    measured = measure("exact_fields", wanted, [{"a": 1, "b": [{"c": "y"}], "d": None}])
    assert measured.value == pytest.approx(2 / 3)
    assert measure("exact_match", wanted, wanted).value == 1


def test_perplexity_weighs_tokens_and_is_better_low() -> None:
    measured = measure_perplexity(np.array([2.0, 6.0]), np.array([2.0, 3.0]))
    assert measured.value == pytest.approx(math.exp(8 / 5))
    assert measured.rows == (1.0, 2.0)
    assert not measured.higher_is_better
    with pytest.raises(ValueError, match="perplexity"):
        measure("perplexity", [1], [1])


def test_a_small_set_has_a_wide_interval() -> None:
    def width(rows: int) -> float:
        wanted = ["a", "b"] * (rows // 2)
        measured = measure("accuracy", wanted, ["a"] * rows)
        return measured.high - measured.low

    assert width(10) > 2 * width(200)


def completion(logits: list[float]) -> Completion:
    branches = ((torch.tensor(logits), 0),)
    return Completion("x", "a", "a", 1, 0.0, False, 1, 0, 2, branches)


def test_temperature_softens_an_overconfident_expert() -> None:
    sure = [completion([6.0, 0.0])] * 20
    correct = [True] * 14 + [False] * 6
    temperature = fit_temperature(sure, correct)
    assert confidence_at(sure[0], 1.0) > 0.99
    assert confidence_at(sure[0], temperature) == pytest.approx(0.7, abs=0.02)
    assert fit_temperature(sure, [True] * 20) == 1.0


def test_the_head_loss_and_its_gradient_are_autograds(tiny_base_folder: Path) -> None:
    model = Gemma.load(tiny_base_folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, model.config.vocab, (300,), generator=generator)
    vocabulary = torch.unique(torch.cat([targets, torch.arange(40)]))
    for rows in (None, vocabulary):
        h = torch.randn(300, model.config.hidden, generator=generator, requires_grad=True)
        ours = head_loss(model, h, targets, rows)
        (ours * 0.5).backward()
        assert h.grad is not None
        mine = h.grad.clone()
        h.grad = None
        logits = model.logits(h, rows)
        wanted = targets if rows is None else torch.searchsorted(rows, targets)
        theirs = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        (theirs * 0.5).backward()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(mine, h.grad, rtol=1e-3, atol=1e-4)
