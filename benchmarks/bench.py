"""What every bench shares: the machine's description, interleaved repetitions, one table, JSON beside it.

Contenders take turns (ours, peer, ours, peer), because a machine's speed drifts from minute to minute;
what is reported are medians and the ratio of medians. Knows nothing of what is measured.
"""

from __future__ import annotations

import gc
import json
import math
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from fleet.engine.base import resolve_base
from fleet.engine.testing import write_tiny_base

RESULTS = Path(__file__).parent / "results"
SHOWN_VERSIONS = ("torch", "transformers", "peft", "trl", "llama_cpp_python", "llguidance")

T = TypeVar("T")


@contextmanager
def bench_base(smoke: bool) -> Iterator[Path]:
    """Folder of the real base in bf16, or of a tiny random one that is gone afterwards."""
    if not smoke:
        yield resolve_base(
            "gemma-3-270m", Path(os.environ.get("FLEET_CACHE") or "~/.cache/taskfleet").expanduser()
        )
        return
    with tempfile.TemporaryDirectory(prefix="bench-base-") as scratch:
        yield write_tiny_base(Path(scratch) / "tiny")


@dataclass(frozen=True, slots=True)
class Run(Generic[T]):
    """One repetition of one contender."""

    seconds: float
    result: T


@dataclass(slots=True)
class Report:
    """One bench's outcome: ``rows`` are the table, ``ratios`` the comparisons, ``failures`` what must not be.

    ``rows`` all have the same keys; a missing figure is None and shown as a dash.
    """

    name: str
    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    smoke: bool = False
    """Whether the figures mean nothing: their file is kept apart."""

    def aim(self, ratio: str, *, at_least: float = float("-inf"), at_most: float = float("inf")) -> None:
        """Note whether a ratio is where it should be; timings are no reason to fail."""
        held = at_least <= self.ratios[ratio] <= at_most
        bound = f">= {at_least}" if math.isfinite(at_least) else f"<= {at_most}"
        self.notes.append(f"{'met' if held else 'MISSED'}: {ratio} {bound}")

    def finish(self) -> None:
        """Print the table and write ``results/<name>.json``; exit with 1 if something must not be."""
        self._show()
        place = (RESULTS / "smoke" if self.smoke else RESULTS) / f"{self.name}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        plain = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            **asdict(self),
        }
        place.write_text(json.dumps(plain, indent=1, ensure_ascii=False, default=str) + "\n")
        if self.failures:
            raise SystemExit(f"{self.name} failed: " + "; ".join(self.failures))

    def _show(self) -> None:
        columns = list(self.rows[0]) if self.rows else []
        cells = [[_shown(row[column]) for column in columns] for row in self.rows]
        below = [*(f"  {name}: {ratio:.3g}" for name, ratio in self.ratios.items())]
        below += [f"  {note}" for note in self.notes]
        about = "  " + ", ".join(f"{key} {value}" for key, value in machine().items())
        try:
            from rich.console import Console
            from rich.table import Table
        except ModuleNotFoundError:  # a lent GPU machine has torch and little else
            print("\n".join([self.title, *(" | ".join(line) for line in (columns, *cells)), *below, about]))
            return
        console = Console(width=None if sys.stdout.isatty() else 120)  # a log would get 80 columns
        table = Table(*columns, title=self.title)
        for line in cells:
            table.add_row(*line)
        console.print(table)
        for note in below:
            console.print(note)
        console.print(about, style="dim")


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    packages = {}
    for package in SHOWN_VERSIONS:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": _cpu_name(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "python": platform.python_version(),
        **packages,
    }


def interleave(
    contenders: Mapping[str, Callable[[], T]], repetitions: int, *, warmups: int = 1
) -> dict[str, list[Run[T]]]:
    """Let every contender run ``warmups`` times unmeasured, then ``repetitions`` times in turn."""
    runs: dict[str, list[Run[T]]] = {name: [] for name in contenders}
    for repetition in range(-warmups, repetitions):
        for name, call in contenders.items():
            started = time.perf_counter()
            result = call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repetition >= 0:
                runs[name].append(Run(time.perf_counter() - started, result))
    return runs


def median_seconds(runs: Sequence[Run[Any]]) -> float:
    return statistics.median(run.seconds for run in runs)


def resident_mib() -> float:
    """Resident memory of this process now, memory-mapped weights included, in MiB."""
    import psutil  # a lent GPU machine may not have it

    return float(psutil.Process().memory_info().rss / 2**20)


def peak_resident_mib() -> float:
    """The most resident memory this process has had, in MiB; measure contenders in processes of their own."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of a child starts at what its parent held when it was started
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def forget_peak() -> None:
    """Let ``peak_resident_mib`` start anew from what is held now, where Linux allows it."""
    gc.collect()
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
