"""A thousand experts: bytes on disk and in memory; time to register, load, check and swap one.

Versions are folders that ``write_expert`` writes, as training does: LoRA of rank 16 on layers 6-17, with
the manifest of a starter task and three golden prompts. The matrices are random, of four kinds; each
version is files of its own. 200 are written by default (1 GB) and loaded again under other names until the
bank is full; ``--full`` writes a thousand.

Banks of 1,000, 100, 10 and 1 slots are filled through a host's own steps: digest, read, seal (manifest,
base, tokenizer and prompt are those that it was made with), copy into the slot. Then some are checked
(golden prompts), swapped (loaded over another expert) and loaded from the disk: the kernel is asked to
drop the files from its cache first. Everything else reads files that the cache holds. Resident memory is
measured where it shows, for the largest bank, which is made first.

A step is one mixed batch of 32 jobs of 32 tokens in the largest bank, over slots spread through its first
1, 10, 100 or 1,000, taking turns: what more experts in memory cost, and what more experts in a batch.

Registering goes through ``Registry`` on a SQLite store. Some dozens of versions are registered; for
``champions()`` over a thousand models the others are rows copied inside the store.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.bench import Report, bench_base, interleave, median_seconds, resident_mib
from benchmarks.scaling.shelf import Shelf, drop_from_cache
from benchmarks.scaling.store_copies import copy_models
from benchmarks.training.course import LORA, TINY_LORA
from fleet.engine.adapters import AdapterBank
from fleet.engine.base import Base, load_base
from fleet.engine.batch import Batch
from fleet.engine.specs import LoraSpec
from fleet.registry.store import Registry, RunRecord

MOST_BYTES, MOST_MS = 8e6, 100.0


@dataclass(frozen=True, slots=True)
class Size:
    written: int = 200
    banks: tuple[int, ...] = (1000, 100, 10, 1)
    probes: int = 10
    """Experts that are checked, swapped and loaded from the disk in each bank."""
    registered: int = 24
    champions: int = 1000
    jobs: int = 32
    tokens: int = 32
    repetitions: int = 5
    """Of each step."""
    lora: LoraSpec = field(default_factory=lambda: LORA)


SMOKE = Size(3, (4, 1), 2, 2, 5, 2, 4, 1, TINY_LORA)


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny base and few experts: does it run?")
    parser.add_argument("--experts", type=int, help="how many versions are written (default 200)")
    parser.add_argument("--full", action="store_true", help="as many versions as the largest bank has slots")
    arguments = parser.parse_args(argv)
    size = SMOKE if arguments.smoke else Size()
    size = replace(size, written=size.banks[0] if arguments.full else arguments.experts or size.written)
    report = Report("scale", "1 to 1,000 experts", smoke=arguments.smoke)
    with bench_base(arguments.smoke) as folder, tempfile.TemporaryDirectory(prefix="bench-scale-") as scratch:
        base = load_base(folder)
        shelf = Shelf(base, size.lora, Path(scratch) / "versions")
        for _ in range(size.written):
            shelf.write()
        each = [sum(file.stat().st_size for file in v.folder.iterdir()) for v in shelf.versions]
        _add(report, "a version on disk", size.written, mib=float(np.median(each)) / 2**20)
        if _too_little(report, base, size):
            size = replace(size, banks=size.banks[1:])
        for slots in size.banks:
            fill_bank(report, shelf, slots, size)
        register(report, shelf, Path(scratch), size)
        report.ratios["bytes of a version / 8 MB"] = float(np.median(each)) / MOST_BYTES
    report.aim("bytes of a version / 8 MB", at_most=1.0)
    report.finish()


def fill_bank(report: Report, shelf: Shelf, slots: int, size: Size) -> None:
    """A bank of so many slots: its memory, the loads that fill it, and what may happen to it then."""
    model, lora = shelf.base.model, size.lora
    before = resident_mib()
    bank = AdapterBank(model.config, slots, lora.rank, lora.layers, dtype=model.dtype)
    stages: list[dict[str, float]] = []
    for slot in range(slots):
        stages.append(shelf.load(shelf.versions[slot % len(shelf.versions)], bank, slot)[0])
    tensors = sum(
        t.numel() * t.element_size() for slot in range(slots) for t in bank.parameters(slot).values()
    )
    _add(report, "bank, matrices as computed", slots, mib=tensors / 2**20)
    largest = slots == size.banks[0]
    if largest:
        _add(report, "bank, resident memory as measured", slots, mib=resident_mib() - before)
    _add(report, "load, files cached", slots, [sum(each.values()) for each in stages])
    for stage in stages[0]:
        _add(report, f"  {stage}", slots, [each[stage] for each in stages])
    checks, swaps, cold = [], [], []
    for probe in range(size.probes):
        slot, version = probe * slots // size.probes, shelf.versions[-1 - probe % len(shelf.versions)]
        milliseconds, loaded = shelf.load(version, bank, slot)
        swaps.append(sum(milliseconds.values()))
        checks.append(_milliseconds(lambda held=loaded: shelf.check(bank, held)))
        drop_from_cache(version.folder)
        cold.append(sum(shelf.load(version, bank, slot)[0].values()))
    _add(report, "swap for another, files cached", slots, swaps)
    _add(report, "load, files from the disk", slots, cold)
    _add(report, "self-check, three golden prompts", slots, checks)
    if largest:
        steps(report, shelf.base, bank, size)
        report.ratios["load from the disk without self-check / 100 ms"] = float(np.median(cold)) / MOST_MS
        report.aim("load from the disk without self-check / 100 ms", at_most=1.0)


def steps(report: Report, base: Base, bank: AdapterBank, size: Size) -> None:
    """One pass for a mixed batch, over slots of more and more of the bank."""
    model, batch = base.model, Batch.of([size.tokens] * size.jobs)
    ids = torch.randint(300, model.config.vocab, (size.jobs * size.tokens,))

    @torch.inference_mode()
    def step(slots: list[int]) -> None:
        adapters = bank.select(slots, batch, dtype=model.dtype)
        model.run(model.embed(ids), batch, (0, model.config.layers), adapters=adapters, keep=batch.last)

    calls = {}
    for spread in size.banks:
        slots = [job * spread // size.jobs for job in range(size.jobs)]
        calls[str(spread)] = partial(step, slots)
    runs = interleave(calls, size.repetitions)
    for spread in size.banks:
        taken = [run.seconds * 1000 for run in runs[str(spread)]]
        _add(report, f"step of {size.jobs} jobs over so many", spread, taken)
    if len(size.banks) > 1:
        most, fewer = (median_seconds(runs[str(spread)]) for spread in size.banks[:2])
        report.ratios[f"step over {size.banks[0]} experts / over {size.banks[1]}"] = most / fewer


def register(report: Report, shelf: Shelf, scratch: Path, size: Size) -> None:
    """Versions through the registry's door, then all champions at once."""
    store = scratch / "mlflow.db"
    registry = Registry(f"sqlite:///{store}", scratch / "artifacts")
    registry.tasks()  # makes the store, which takes MLflow seconds
    record = RunRecord(metrics={"macro_f1": 0.9})
    times, names = [], [f"expert-{number:04d}" for number in range(size.champions)]
    for name, version in zip(names[: size.registered], shelf.versions, strict=False):
        started = time.perf_counter()
        info = registry.log_version(name, version.folder, record, {})
        times.append((time.perf_counter() - started) * 1000)
        registry.set_alias(name, registry.champion_alias, info.version)
    _add(report, "register a version", len(times), times)
    copy_models(store, names[0], names[len(times) :])
    for what in ("champions(), first look", "champions(), again"):
        taken = _milliseconds(registry.champions)
        _add(report, what, len(registry.champions()), [taken])
    champions = registry.champions()
    if len(champions) != size.champions:
        report.failures.append(f"{len(champions)} champions of {size.champions} were found")
    fetched = [champions[name] for name in names[: len(times)]]
    for what in ("fetch one to this machine", "fetch one that is here"):
        taken = [_milliseconds(lambda info=info: registry.fetch(info, scratch / "cache")) for info in fetched]
        _add(report, what, len(fetched), taken)
    shutil.rmtree(scratch / "cache")


def _too_little(report: Report, base: Base, size: Size) -> bool:
    """Whether the largest bank does not fit into memory, with half as much again to spare."""
    one = AdapterBank(base.model.config, 1, size.lora.rank, size.lora.layers, dtype=base.model.dtype)
    one.occupy(0, size.lora)
    needed = 1.5 * size.banks[0] * sum(t.numel() * t.element_size() for t in one.parameters(0).values())
    free = psutil.virtual_memory().available
    if needed > free:
        report.notes.append(
            f"no bank of {size.banks[0]}: {free / 1e9:.1f} GB are free, {needed / 1e9:.1f} needed"
        )
    return needed > free


def _add(
    report: Report,
    what: str,
    experts: int,
    milliseconds: Sequence[float] = (),
    *,
    mib: float | None = None,
) -> None:
    middle, late = np.percentile(milliseconds, (50, 99)) if len(milliseconds) else (None, None)
    report.rows.append(
        {
            "what": what,
            "experts": experts,
            "ms, median": None if middle is None else float(middle),
            "ms, 99 of 100": None if late is None else float(late),
            "MiB": mib,
            "MiB each": None if mib is None else mib / experts if what.startswith("bank") else mib,
        }
    )


def _milliseconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
