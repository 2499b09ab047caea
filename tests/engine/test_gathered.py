"""Gathered adapters: what ``Slots`` adds and the gradients it gives, whatever slots a batch mixes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.engine.adapters import Adapter, AdapterBank, Slots, _groups
from fleet.engine.base import load_base
from fleet.engine.batch import Batch
from fleet.engine.gathered import Gathered, Stacks, Tiles, pays
from fleet.engine.gemma import Gemma
from fleet.engine.gemma_config import GemmaConfig
from fleet.engine.specs import Example, LabelSpec, LoraSpec, PromptSpec, TaskSpec, TrainSpec
from fleet.engine.train import TrainResult, TrainTask, Validation, train_cohort

LAYERS = (2, 6)
LORAS = (LoraSpec(2, 4.0, LAYERS), LoraSpec(5, 4.0, (3, 5)), LoraSpec(8, 24.0, LAYERS))
"""The fourth slot stays empty."""
ROWS = st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 12)), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def model(tiny_base_folder: Path) -> Gemma:
    return Gemma.load(tiny_base_folder, dtype=torch.float32)


def filled(config: GemmaConfig, *, trainable: bool = False) -> AdapterBank:
    bank = AdapterBank(config, len(LORAS) + 1, 8, LAYERS, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for slot, lora in enumerate(LORAS):
        bank.occupy(slot, lora, trainable=trainable)
        with torch.no_grad():
            for matrix in bank.parameters(slot).values():
                matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.1)
    return bank


def gathered(bank: AdapterBank, rows: Sequence[int], batch: Batch, dtype: torch.dtype) -> Gathered:
    return Gathered.of(Stacks(bank._a, bank._b, bank._views, bank.loras), rows, batch, dtype=dtype)


def one_by_one(bank: AdapterBank, rows: Sequence[int], batch: Batch, dtype: torch.dtype) -> Slots:
    return Slots(bank, tuple(rows), _groups(rows, batch), dtype)


Choosing = Callable[[AdapterBank, Sequence[int], Batch, torch.dtype], Slots | Gathered]


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 99))
def test_it_adds_what_slots_add(model: Gemma, rows: list[tuple[int, int]], seed: int) -> None:
    bank = filled(model.config)
    slots, lengths = [slot for slot, _ in rows], [n for _, n in rows]
    batch = Batch.of(lengths)
    generator = torch.Generator().manual_seed(seed)
    new, old = (choose(bank, slots, batch, torch.float32) for choose in (gathered, one_by_one))
    for layer in (1, 2, 5):  # the bank does not reach the first, the second slot not the last
        for target in ("self_attn.k_proj", "mlp.down_proj"):
            out, into = model.config.layer_shapes()[target]
            x = torch.randn(sum(lengths), into, generator=generator)
            y = torch.randn(sum(lengths), out, generator=generator)
            with torch.no_grad():
                got, wanted = (way.add(layer, target, x, y.clone()) for way in (new, old))
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
            bare = torch.tensor([slot in (-1, 3) for slot in slots])[batch.row]
            assert torch.equal(got[bare], y[bare])


@settings(max_examples=25, deadline=None)
@given(ROWS, st.booleans())
def test_its_gradients_are_those_of_slots(model: Gemma, rows: list[tuple[int, int]], last: bool) -> None:
    slots, lengths = [slot for slot, _ in rows], [n for _, n in rows]
    batch = Batch.of(lengths)
    h = torch.randn(sum(lengths), model.config.hidden, generator=torch.Generator().manual_seed(1))

    def run(choose: Choosing) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
        bank = filled(model.config, trainable=True)
        out = model.run(
            h,
            batch,
            (1, 6),
            adapters=choose(bank, slots, batch, torch.float32),
            keep=batch.last if last else None,
        )
        if out.requires_grad:
            out.pow(2).sum().backward()
        leaves = {f"{i} {k}": t for i in range(4) for k, t in bank.parameters(i).items()}
        return out.detach(), {name: leaf.grad for name, leaf in leaves.items()}

    (got, mine), (wanted, theirs) = run(gathered), run(one_by_one)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    for name, gradient in theirs.items():
        other = mine[name]
        if gradient is None:  # a slot that no row has, or a bare batch
            assert other is None
        else:
            assert other is not None
            assert other.shape == gradient.shape
            scale = float(gradient.abs().max())
            torch.testing.assert_close(other, gradient, atol=1e-5 * max(scale, 1e-3), rtol=1e-3)


def test_in_bf16_it_is_as_near_to_fp32_as_slots_are(model: Gemma) -> None:
    bank = filled(model.config)
    slots, lengths = [0, 0, 1, -1, 2, 2, 2], [3, 9, 1, 4, 1, 1, 7]
    batch = Batch.of(lengths)
    out, into = model.config.layer_shapes()["mlp.gate_proj"]
    x = torch.randn(sum(lengths), into).bfloat16()
    y = torch.randn(sum(lengths), out).bfloat16()
    with torch.no_grad():
        exact = one_by_one(bank, slots, batch, torch.float32).add(3, "mlp.gate_proj", x.float(), y.float())
        errors = [
            float(
                (
                    choose(bank, slots, batch, torch.bfloat16).add(3, "mlp.gate_proj", x, y.clone()) - exact
                ).norm()
            )
            for choose in (one_by_one, gathered)
        ]
    assert errors[1] < 1.2 * errors[0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(1, 90)), min_size=1, max_size=30))
def test_every_token_has_one_place_among_its_own(rows: list[tuple[int, int]]) -> None:
    slots, lengths = [slot for slot, _ in rows], [n for _, n in rows]
    tiles = Tiles.of(slots, lengths, LORAS, "cpu")
    row_slot = torch.tensor(slots).repeat_interleave(torch.tensor(lengths))
    if tiles is None:
        assert set(slots) == {-1}
        return
    tokens = torch.arange(len(row_slot))
    adapted = tokens[row_slot >= 0]
    grid = tiles.grid(row_slot[:, None])[:, :, 0]
    assert torch.equal(grid, tiles.slot[:, None].expand_as(grid))
    filled_places = tiles.weight[:, :, 0] > 0
    assert int(filled_places.sum()) == len(adapted)
    assert torch.equal(tiles.grid(tokens[:, None])[:, :, 0][filled_places].sort().values, adapted)
    assert torch.equal(tiles.merge(tiles.grid(tokens[:, None]), -tokens[:, None])[adapted, 0], adapted)
    # No more is copied than if every token had a tile of its own.
    rank = max(LORAS[slot].rank for slot in tiles.slots)
    assert len(tiles.slot) * (tiles.width + rank) <= len(adapted) * (1 + rank)


def test_one_new_token_a_row_needs_no_copy_of_the_tokens() -> None:
    tiles = Tiles.of([0, 1, 2], [1, 1, 1], LORAS, "cpu")
    assert tiles is not None
    assert tiles.source is None
    assert tiles.tokens is None
    assert tiles.width == 1


def test_an_exploding_expert_spoils_its_own_rows_alone(model: Gemma) -> None:
    bank = filled(model.config)
    next(iter(bank.parameters(1).values())).fill_(torch.nan)
    slots, batch = [0, 1, 2, -1], Batch.of([5, 3, 9, 2])
    x, y = torch.randn(19, 64), torch.randn(19, 64)
    with torch.no_grad():
        got = gathered(bank, slots, batch, torch.float32).add(3, "self_attn.q_proj", x, y)
    assert torch.equal(got.isfinite().all(1), batch.row != 1)


def test_a_cohort_trained_gathered_is_the_cohort_trained_one_by_one(
    tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(tiny_base_folder, dtype=torch.float32)
    tasks = [
        TrainTask(
            TaskSpec(
                name,
                PromptSpec(suffix=f"\n\n{name}:"),
                LabelSpec(("good", "bad")),
                "accuracy",
                LoraSpec(rank, 2.0 * rank, (first, 6)),
                TrainSpec(epochs=1, learning_rate=1e-2, batch_tokens=120),
            ),
            [
                Example({"text": f"{name} {i} " + "indeed " * (i % 4)}, ["good", "bad"][i % 2])
                for i in range(12)
            ],
            lambda bank, slot: Validation(0.0, 0.0),
        )
        for name, rank, first in (("mood", 4, 2), ("taste", 8, 3), ("price", 2, 2))
    ]

    def train(choose: Choosing) -> list[TrainResult]:
        monkeypatch.setattr(
            AdapterBank, "select", lambda bank, rows, batch, *, dtype: choose(bank, rows, batch, dtype)
        )
        return train_cohort(base, tasks)

    for one, other in zip(train(one_by_one), train(gathered), strict=True):
        assert isinstance(one.adapter, Adapter)
        assert isinstance(other.adapter, Adapter)
        for name, tensor in one.adapter.tensors.items():
            torch.testing.assert_close(other.adapter.tensors[name], tensor, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("device", ["cpu", "cuda:0", torch.device("cuda")])
def test_several_adapters_are_gathered_and_one_is_not(device: torch.device | str) -> None:
    assert pays(32, device)
    assert not pays(1, device)
