"""Our forward against transformers' on a tiny random model; tolerance 2e-4 in fp32 logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from fleet.engine.batch import Batch
from fleet.engine.gemma import Gemma

TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def pair(tiny_base_folder: Path) -> tuple[Gemma, torch.nn.Module]:
    theirs = AutoModelForCausalLM.from_pretrained(
        tiny_base_folder, dtype=torch.float32, attn_implementation="eager"
    )
    return Gemma.load(tiny_base_folder, dtype=torch.float32), theirs.eval()


def ids_of(lengths: list[int], vocab: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, vocab, (n,), generator=generator).tolist() for n in lengths]


def reference(theirs: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = theirs(torch.tensor([ids])).logits[0]
    return logits


@pytest.mark.parametrize("lengths", [[5], [8], [9], [40], [3, 17, 8, 30]], ids=str)
def test_logits_equal_transformers_below_and_above_the_window(
    pair: tuple[Gemma, torch.nn.Module], lengths: list[int]
) -> None:
    ours, theirs = pair
    assert ours.config.window == 8
    rows = ids_of(lengths, ours.config.vocab)
    with torch.no_grad():
        h = ours.embed(torch.tensor([i for row in rows for i in row]))
        h = ours.run(h, Batch.of(lengths), (0, ours.config.layers))
        logits = ours.logits(ours.norm(h)).split(lengths)
    for row, got in zip(rows, logits, strict=True):
        torch.testing.assert_close(got, reference(theirs, row), atol=TOLERANCE, rtol=1e-3)


def test_trunk_then_rest_is_the_whole(pair: tuple[Gemma, torch.nn.Module]) -> None:
    ours, _ = pair
    rows = ids_of([12, 5], ours.config.vocab)
    batch = Batch.of([12, 5])
    with torch.no_grad():
        h = ours.embed(torch.tensor([i for row in rows for i in row]))
        whole = ours.run(h, batch, (0, 6))
        cut = ours.run(ours.run(h, batch, (0, 2)), batch, (2, 6))
    assert torch.equal(whole, cut)


def test_cached_chunks_of_different_lengths_equal_one_pass(pair: tuple[Gemma, torch.nn.Module]) -> None:
    ours, theirs = pair
    rows = ids_of([21, 14, 11], ours.config.vocab, seed=1)
    cache = ours.cache()
    places = torch.tensor([2, 0, 3])
    past = [0, 0, 0]
    last = [torch.empty(0)] * 3
    with torch.no_grad():
        for chunk in ([10, 3, 1], [1, 1, 9], [7, 2, 1], [3, 8, 0]):
            live = [i for i, n in enumerate(chunk) if n]
            new = [chunk[i] for i in live]
            batch = Batch.of(new, [past[i] for i in live])
            cache.reserve(4, batch.span)
            tokens = [t for i in live for t in rows[i][past[i] : past[i] + chunk[i]]]
            h = ours.run(
                ours.embed(torch.tensor(tokens)),
                batch,
                (0, 6),
                cache=cache,
                cache_rows=places[live],
                keep=batch.last,
            )
            logits = ours.logits(ours.norm(h))
            for i, got in zip(live, logits, strict=True):
                past[i] += chunk[i]
                last[i] = got
    assert past == [21, 14, 11]
    for row, got in zip(rows, last, strict=True):
        torch.testing.assert_close(got, reference(theirs, row)[-1], atol=TOLERANCE, rtol=1e-3)


@pytest.mark.parametrize("lengths", [[5], [12, 5, 20], [40, 1]], ids=str)
def test_keeping_some_tokens_gives_what_all_give(
    pair: tuple[Gemma, torch.nn.Module], lengths: list[int]
) -> None:
    ours, _ = pair
    batch = Batch.of(lengths)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    ends = [start + n for start, n in zip(starts, lengths, strict=True)]
    # One token of the first row, the last two (or the only one) of every other.
    kept = [
        starts[0] + 1,
        *(i for start, end in zip(starts, ends, strict=True) for i in range(start, end)[-2:]),
    ]
    keep = torch.tensor(sorted(set(kept)))
    with torch.no_grad():
        h = ours.embed(torch.randint(4, ours.config.vocab, (sum(lengths),)))
        whole = ours.run(h, batch, (0, 6))
        some = ours.run(h, batch, (0, 6), keep=keep)
    torch.testing.assert_close(some, whole[keep], atol=1e-5, rtol=1e-5)
    if len(lengths) > 1:
        with pytest.raises(ValueError, match="every row"):
            batch.only(torch.tensor([0]))


def test_some_head_rows_are_the_same_rows_of_all(pair: tuple[Gemma, torch.nn.Module]) -> None:
    ours, _ = pair
    h = torch.randn(3, ours.config.hidden)
    rows = torch.tensor([7, 3, 100])
    torch.testing.assert_close(ours.logits(h, rows), ours.logits(h)[:, rows])
