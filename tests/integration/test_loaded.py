"""Experts in memory: what is kept of them, and that it stays what was checked."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from hosting import new_host

from fleet.engine.adapters import Adapter
from fleet.engine.base import load_base
from fleet.job import Job
from fleet.loaded import LoadedExperts
from fleet.registry.version import VersionInfo
from fleet.workshop import Workshop, open_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    return open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)


@pytest.fixture(scope="module")
def versions(shop: Workshop) -> list[VersionInfo]:
    """More than a bank begins with; the last reaches lower and has a higher rank."""
    made = [shop.make("story", "story", seed=seed) for seed in range(6)]
    return [*made, shop.make("deep", "deep")]


def test_a_bank_that_grows_holds_what_was_checked(shop: Workshop, versions: list[VersionInfo]) -> None:
    host = new_host(shop)
    experts = LoadedExperts(shop.base, depth=2)
    for info in versions:
        experts.add(host.check(info))
    assert experts.bank is not None
    assert experts.bank.slots > 4
    assert (experts.bank.rank, experts.bank.layers) == (8, (0, 6))  # the last one's
    for info in versions:
        wanted = host.check(info)
        got = experts.checked(info.digest)
        assert got is not None
        assert isinstance(got.adapter, Adapter)
        assert isinstance(wanted.adapter, Adapter)
        assert (got.card, got.spec, got.size) == (wanted.card, wanted.spec, wanted.size)
        assert got.adapter.lora == wanted.adapter.lora
        assert got.adapter.tensors.keys() == wanted.adapter.tensors.keys()
        assert all(torch.equal(got.adapter.tensors[name], t) for name, t in wanted.adapter.tensors.items())


def test_matrices_are_in_memory_once_and_as_wide_as_in_their_file(
    shop: Workshop, versions: list[VersionInfo]
) -> None:
    host = new_host(shop)
    wide = load_base(shop.place.parent / "base", dtype=torch.float32)
    experts = LoadedExperts(wide, depth=2)
    checked = host.check(versions[0])
    tensors = [weakref.ref(tensor) for tensor in checked.adapter.tensors.values()]
    experts.add(checked)
    del checked
    gc.collect()
    assert not any(tensor() is not None for tensor in tensors)
    kept = experts.checked(versions[0].digest)
    assert kept is not None
    assert {t.dtype for t in kept.adapter.tensors.values()} == {torch.bfloat16}


def test_an_expert_that_has_left_is_not_given_on(shop: Workshop, versions: list[VersionInfo]) -> None:
    host = new_host(shop)
    experts = LoadedExperts(shop.base, depth=2)
    assert experts.checked(versions[0].digest) is None
    experts.add(host.check(versions[0]))
    experts.drop(versions[0].digest)
    assert experts.checked(versions[0].digest) is None


def test_an_expert_counts_as_the_place_it_takes(shop: Workshop, versions: list[VersionInfo]) -> None:
    host = new_host(shop)
    small, deep = host.check(versions[0]), host.check(versions[-1])
    assert small.size < deep.size
    # A place in a bank for the deep one is as large as that one, whoever has it.
    experts = LoadedExperts(shop.base, depth=2, room=2 * deep.size)
    experts.add(deep)
    experts.add(small)
    experts.add(host.check(versions[1]))
    assert deep.digest not in experts
    assert small.digest in experts


def test_places_that_become_larger_are_cleared_first(shop: Workshop, versions: list[VersionInfo]) -> None:
    host = new_host(shop)
    first, second, deep = (host.check(versions[number]) for number in (0, 1, -1))
    experts = LoadedExperts(shop.base, depth=2, room=2 * deep.size)
    for number in range(4):
        experts.add(host.check(versions[number]))
    experts.pin(first.digest)
    assert all(versions[number].digest in experts for number in range(4))
    experts.add(deep)
    assert first.digest in experts  # a job needs it
    assert deep.digest in experts
    assert second.digest not in experts


def test_more_experts_than_there_is_room_for_answer_in_one_batch(
    shop: Workshop, versions: list[VersionInfo]
) -> None:
    tasks = ("mood", "record", "letters")
    made = [shop.make(task, kind) for task, kind in zip(tasks, ("mood", "record", "mood"), strict=True)]
    host = new_host(shop, room=new_host(shop).check(made[0]).size)  # for one of them
    host.champions = {info.task: info for info in made}
    results = host.answer([Job(task, text="Anna met Bo", task=task) for task in tasks])
    assert [result.error for result in results] == [None, None, None]
    assert sum(info.digest in host.experts for info in made) == 1
