"""Choosing tokens for a batch: each job gets what it would get alone, from its own rows of the head."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fleet.engine.choice import KEPT_LOGITS, Ask, choose
from fleet.engine.gemma import Gemma
from fleet.engine.specs import TextSpec

VOCABULARY = 800
"""Fewer than the head's rows, as a tokenizer may have."""


@pytest.fixture(scope="module")
def model(tiny_base_folder: Path) -> Gemma:
    return Gemma.load(tiny_base_folder, dtype=torch.float32)


def even() -> Tensor:
    return torch.arange(VOCABULARY) % 2 == 0


ALLOWED = [torch.tensor([5, 9]), torch.tensor([3, 40, 41, 700]), torch.arange(10, 300), torch.arange(600)]
MASKS = [even(), ~even()]
HOT = TextSpec(temperature=1.3, top_p=0.9)
ASKS = st.one_of(
    st.tuples(st.integers(0, 3), st.none(), st.sampled_from([None, HOT]), st.sampled_from([1.0, 2.5])),
    st.tuples(st.none(), st.integers(0, 1), st.sampled_from([None, TextSpec(), HOT]), st.just(1.0)),
)
Drawn = tuple[int | None, int | None, TextSpec | None, float]


def ask(drawn: Drawn, seed: int) -> Ask:
    allowed, mask, sampling, temperature = drawn
    hot = sampling is not None and sampling.temperature > 0
    return Ask(
        None if allowed is None else ALLOWED[allowed],
        None if mask is None else MASKS[mask],
        temperature,
        sampling,
        torch.Generator().manual_seed(seed) if hot else None,
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(ASKS, min_size=1, max_size=12), st.integers(0, 99))
def test_company_changes_no_choice(model: Gemma, drawn: list[Drawn], seed: int) -> None:
    h = torch.randn(len(drawn), model.config.hidden, generator=torch.Generator().manual_seed(seed))
    together = choose(model, h, [ask(each, i) for i, each in enumerate(drawn)])
    for i, (each, got) in enumerate(zip(drawn, together, strict=True)):
        (alone,) = choose(model, h[i : i + 1], [ask(each, i)])
        assert got.token == alone.token
        assert got.rows == alone.rows
        assert math.isclose(got.log_probability, alone.log_probability, abs_tol=1e-4)


@settings(max_examples=40, deadline=None)
@given(ASKS, st.integers(0, 99))
def test_a_choice_is_the_likeliest_of_what_is_allowed(model: Gemma, drawn: Drawn, seed: int) -> None:
    h = torch.randn(1, model.config.hidden, generator=torch.Generator().manual_seed(seed))
    asked = ask(drawn, seed)
    (got,) = choose(model, h, [asked])
    logits = model.logits(h)[0]
    ids = asked.allowed if asked.allowed is not None else MASKS[drawn[1] or 0].nonzero()[:, 0]
    assert got.token in ids.tolist()
    place = ids.tolist().index(got.token)
    assert got.rows == (len(ids) if asked.allowed is not None else len(logits))
    if asked.generator is None:
        assert place == int(logits[ids].argmax())
    wanted = torch.log_softmax(logits[ids] / asked.temperature, dim=-1)[place]
    assert math.isclose(got.log_probability, float(wanted), abs_tol=1e-4)
    if asked.sampling is not None:
        assert got.branch is None
        return
    assert got.branch is not None
    kept, index = got.branch
    assert len(kept) == (len(ids) if drawn[0] in (0, 1) else min(len(kept), KEPT_LOGITS))
    assert math.isclose(float(kept[index]), float(logits[got.token]), abs_tol=1e-4)


@pytest.mark.parametrize("many", [False, True])
def test_nan_is_its_own_job_s_affair(model: Gemma, many: bool) -> None:
    h = torch.randn(3, model.config.hidden)
    h[1, 7] = math.nan
    drawn: Drawn = (None, 0, HOT, 1.0) if many else (1, None, None, 1.0)
    good, bad, fine = choose(model, h, [ask(drawn, i) for i in range(3)])
    assert bad.token is None
    assert good.token is not None
    assert fine.token is not None
    (alone,) = choose(model, h[2:], [ask(drawn, 2)])
    assert fine.token == alone.token


def test_draws_follow_the_seed(model: Gemma) -> None:
    h = torch.randn(1, model.config.hidden).expand(30, -1).contiguous()
    drawn: Drawn = (None, 0, HOT, 1.0)
    one, other = (choose(model, h, [ask(drawn, i) for i in range(30)]) for _ in range(2))
    assert [c.token for c in one] == [c.token for c in other]
    assert len({c.token for c in one}) > 5


def drawn_from(scores: Tensor, spec: TextSpec, seeds: int) -> list[int]:
    asks = [Ask(None, None, 1.0, spec, torch.Generator().manual_seed(seed)) for seed in range(seeds)]
    # A model of one layer's width whose head is the identity: its logits are what it is given.
    head = Head(len(scores))
    return [int(c.token or 0) for c in choose(head, scores.expand(seeds, -1).contiguous(), asks)]  # type: ignore[arg-type]


class Head:
    """As much of a model as choosing needs, with logits of our own."""

    device = "cpu"

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def logits(self, h: Tensor, rows: Tensor | None = None) -> Tensor:
        return h if rows is None else h[:, rows]


def test_draws_have_the_probabilities_of_the_temperature_and_stay_in_the_nucleus() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0, 0.5, -3.0])
    spec = TextSpec(temperature=0.8)
    counts = torch.bincount(torch.tensor(drawn_from(scores, spec, 4000)), minlength=5) / 4000
    torch.testing.assert_close(counts, torch.softmax(scores / 0.8, -1), atol=0.03, rtol=0)
    assert set(drawn_from(scores, TextSpec(temperature=0.8, top_p=0.7), 300)) == {0, 1}
    assert set(drawn_from(scores, TextSpec(temperature=1e-40), 50)) == {0}


def test_rounding_does_not_change_a_draw() -> None:
    """Tokens that are almost alike change places in the order of their probabilities."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(400, generator=generator) * 1e-5
    nudged = scores + torch.randn(400, generator=generator) * 1e-7
    spec = TextSpec(temperature=1.0)
    assert not torch.equal(scores.argsort(), nudged.argsort())
    assert drawn_from(scores, spec, 300) == drawn_from(nudged, spec, 300)
