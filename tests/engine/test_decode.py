"""The scheduler: mixed batches equal single jobs, limits and faults stay with the job they belong to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import DEPTH, Shop

from fleet.engine.batch import Batch
from fleet.engine.decode import Completion, Scheduler
from fleet.engine.evaluate import confidence_at
from fleet.engine.specs import ConstraintSpec, LabelSpec, SchemaSpec, TextSpec

LABELS = LabelSpec(("good", "goodish", "bad"))
RECORD = SchemaSpec(
    {
        "type": "object",
        "properties": {
            "who": {"type": "array", "items": {"type": "string", "x-verbatim": True}, "maxItems": 3},
            "mood": {"enum": ["good", "bad"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["who", "mood", "count"],
        "additionalProperties": False,
    }
)
TEXT = TextSpec()
JOB = st.tuples(
    st.sampled_from([LABELS, RECORD, TEXT]),
    st.sampled_from(["Anna met Bo", 'she said "no" \\ twice', "héllo 🦊 wörld", "a", "good bad " * 9]),
    st.integers(-1, 2),
)


@pytest.fixture(scope="module")
def shop(tiny_base_folder: Path) -> Shop:
    return Shop(tiny_base_folder)


@settings(max_examples=15, deadline=None)
@given(st.lists(JOB, min_size=1, max_size=6), st.integers(1, 4))
def test_company_changes_no_answer(
    shop: Shop, jobs: list[tuple[ConstraintSpec, str, int]], rows: int
) -> None:
    together = shop.run([shop.request(str(i), *job) for i, job in enumerate(jobs)], max_rows=rows)
    for i, job in enumerate(jobs):
        (alone,) = shop.run([shop.request("alone", *job)])
        assert together[i].value == alone.value
        assert together[i].truncated == alone.truncated
        assert math.isclose(together[i].confidence, alone.confidence, rel_tol=1e-3, abs_tol=1e-9)


def greedy(shop: Shop, spec: ConstraintSpec, job: str, slot: int) -> object:
    """The same answer the slow way: all tokens from the start at every step, all rows of the head."""
    model, constraint = shop.base.model, shop.compiler.start(spec, job)
    ids = [*shop.renderer.job_ids(job), *shop.renderer.suffix_ids("\n\nAnswer:")]
    output: list[int] = []
    while True:
        output += constraint.forced()
        if constraint.done:
            return constraint.value()
        batch = Batch.of([len(ids) + len(output)])
        with torch.no_grad():
            h = model.run(
                model.embed(torch.tensor([*ids, *output])),
                batch,
                (0, 6),
                adapters=shop.bank.select([slot], batch, dtype=torch.float32),
            )
            scores = model.logits(model.norm(h[-1:]))[0]
        allowed, mask = constraint.allowed(), constraint.mask()
        if allowed is None:
            assert mask is not None
            allowed = mask.nonzero()[:, 0]
        best = int(allowed[scores[allowed].argmax()])
        constraint.advance(best)
        output.append(best)


@pytest.mark.parametrize("slot", [-1, 0, 1, 2])
@pytest.mark.parametrize("spec", [LABELS, RECORD], ids=["labels", "record"])
def test_caches_trunk_states_and_small_heads_change_nothing(
    shop: Shop, spec: ConstraintSpec, slot: int
) -> None:
    for job in ("Anna met Bo in the rain", "no"):
        (got,) = shop.run([shop.request("x", spec, job, slot, 200)])
        assert not got.truncated
        assert got.value == greedy(shop, spec, job, slot)


def test_classification_is_one_pass_with_few_head_rows(shop: Shop) -> None:
    spec = LabelSpec(("alpha", "beta", "gamma"))
    (got,) = shop.run([shop.request("x", spec, "some text", 0)])
    assert got.value in spec.labels
    assert got.computed_steps >= 1
    assert got.head_rows <= 4 * got.computed_steps
    assert got.forced_tokens + got.computed_steps == got.tokens


@pytest.mark.parametrize("limit", [1, 3, 7, 30])
def test_a_truncated_record_is_still_valid(shop: Shop, limit: int) -> None:
    job = 'Zoë, "Q" & 李雷 came\ntwice'
    (got,) = shop.run([shop.request("x", RECORD, job, 1, limit)])
    value = got.value
    assert set(value) == {"who", "mood", "count"}
    assert all(name in job for name in value["who"])
    assert json.loads(got.text) == value


def test_a_nan_expert_fails_alone_and_leaves_nothing_behind(shop: Shop) -> None:
    good = [shop.request(str(i), LABELS, f"text {i}", 0) for i in range(3)]
    expected = [c.value for c in shop.run(good)]
    first = next(iter(shop.bank.parameters(1).values()))
    kept = first.clone()
    first.fill_(math.nan)
    try:
        scheduler = Scheduler(shop.base.model, shop.bank, DEPTH, max_rows=4)
        for _ in range(3):
            requests = [shop.request(str(i), LABELS, f"text {i}", 0) for i in range(3)]
            *fine, bad = scheduler.run([*requests, shop.request("bad", LABELS, "long " * 12, 1)])
            assert bad.error is not None
            assert "NaN" in bad.error
            assert bad.value is None
            assert [c.value for c in fine] == expected
    finally:
        first.copy_(kept)


def test_a_cancelled_job_frees_its_place(shop: Shop) -> None:
    scheduler = Scheduler(shop.base.model, shop.bank, DEPTH, max_rows=1)
    scheduler.submit(shop.request("long", TEXT, "tell me", -1, 500))
    scheduler.submit(shop.request("next", LABELS, "text", 0))
    scheduler.step()
    assert scheduler.cancel("long")
    assert not scheduler.cancel("long")
    done: list[Completion] = []
    while scheduler.busy:
        done += scheduler.step()
    assert [c.job_id for c in done] == ["next"]


def test_sampling_is_repeatable_and_greedy_is_not_sampled(shop: Shop) -> None:
    def tell(spec: TextSpec) -> str:
        (got,) = shop.run([shop.request("x", spec, "tell me", 0, 20)])
        assert got.tokens <= 21
        return got.text

    hot = TextSpec(temperature=1.5, seed=1)
    assert tell(hot) == tell(hot)
    assert tell(hot) != tell(TextSpec(temperature=1.5, seed=2))
    assert tell(TEXT) == tell(TextSpec(seed=5))


def test_confidence_is_that_of_its_branches(shop: Shop) -> None:
    for completion in shop.run([shop.request(str(i), LABELS, f"t{i}", 0) for i in range(3)]):
        assert 0 < completion.confidence <= 1
        assert math.isclose(confidence_at(completion, 1.0), completion.confidence, rel_tol=1e-5)
        assert confidence_at(completion, 5.0) < 1
