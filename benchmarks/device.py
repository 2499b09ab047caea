"""What a GPU makes of the engine: serving and cohort training with random weights of Gemma 3 270M's shape.

Needs torch, transformers and the engine, no weights, no service: it runs on a bare machine. First the device
must compute what the CPU computes in fp32 (``on_device/parity.py``), or nothing is measured. Then:

- serving: jobs a second of ``run_trunk`` and ``Scheduler`` for 1 to 1,000 experts of rank 16, asked by Zipf's
  law, 20 to 120 tokens a job, one of four labels of the expert's own or 48 tokens of free text;
- training: ``train_cohort`` of 1, 8 and 32 tasks together, against the same tasks one at a time;
- products: one layer's adapters adapter by adapter, gathered, and by torch's grouped product;
- steps: one decode step launched kernel by kernel, as a CUDA graph, and (``--compiled``) compiled;
- profile: the heaviest operators of the slowest parts.

Every part is its own table and its own file, ``device_<part>.json``, written as soon as it is measured. There
is no peer here: the comparison is with ourselves, adapter by adapter and one task at a time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.bench import Report
from benchmarks.on_device import parity, products, profile, serving, steps, training
from benchmarks.on_device.size import SIZES, SMOKE
from benchmarks.on_device.subject import Subject

PARTS = {"serving": 0.45, "training": 0.7, "products": 0.8, "steps": 0.88, "profile": 1.0}
"""The parts in their order, and the share of the time after which each begins nothing new."""
TITLES = {
    "parity": "The device against the CPU in fp32 (relative difference of norms)",
    "serving": "Serving",
    "training": "Cohort training",
    "products": "One layer's adapters",
    "steps": "One decode step of free text",
    "profile": "The heaviest operators",
}


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.device",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", choices=sorted(SIZES), default="270m")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=450, help="nothing is begun after so many")
    parser.add_argument("--compiled", action="store_true", help="compile the decode step too: minutes")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU: does it run?")
    arguments = parser.parse_args(argv)
    parts = arguments.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"no part called {', '.join(unknown)}")
    size, device = SIZES[arguments.shape], arguments.device
    if arguments.smoke:
        size, device = SMOKE, "cpu"
    started = time.monotonic()
    subject = Subject.make(size, device)
    reports = {
        part: Report(f"device_{part}", f"{title} ({subject.model.device})", smoke=size is not SIZES["270m"])
        for part, title in TITLES.items()
        if part in ("parity", *parts)
    }
    measure(subject, reports, started, arguments)


def measure(
    subject: Subject, reports: dict[str, Report], started: float, arguments: argparse.Namespace
) -> None:
    """Parity first, then the parts in their order."""

    def left(part: str) -> Callable[[], float]:
        return lambda: started + PARTS[part] * arguments.seconds - time.monotonic()

    parity.check(subject, reports["parity"])
    reports["parity"].finish()
    calls: dict[str, Callable[[Report], None]] = {
        "serving": lambda r: serving.measure(subject, r, left("serving")),
        "training": lambda r: training.measure(subject, r, left("training")),
        "products": lambda r: products.measure(subject, r, left("products")),
        "steps": lambda r: steps.measure(subject, r, left("steps"), compiled=arguments.compiled),
        "profile": lambda r: profile.measure(
            subject, r, left("profile"), reports["serving"].rows if "serving" in reports else []
        ),
    }
    failed: list[str] = []
    for part in PARTS:
        if part in reports:
            calls[part](reports[part])
            try:
                reports[part].finish()
            except SystemExit as error:  # the machine is lent for minutes: the other parts go on
                failed.append(str(error))
    if failed:
        raise SystemExit("; ".join(failed))


if __name__ == "__main__":
    main(sys.argv[1:])
