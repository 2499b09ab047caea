"""The service: real HTTP on Ray Serve over a real registry; against the bare engine, and against a peer.

Sixteen LoRA experts of rank 16 over one base, registered in a scratch MLflow; jobs of 20 to 120 tokens that
name their task, one of four labels each, experts drawn by Zipf's law. Service, peer and bare engine have as
many processes and threads each. Jobs come from a process of their own: in an open loop, at Poisson times and
with latencies from when a job was due, or in a closed one that finds the most (``hosting/generator.py``).

- overhead: jobs/s of the service at saturation against ``Host`` called directly, milliseconds at idle;
- peer: jobs/s against Ray Serve with ``@serve.multiplexed`` and PEFT (``hosting/peft_peer.py``), which must
  give the same answers; one that compares labels in one pass, and one that generates them;
- bulk: jobs/s of a file through ``fleet route --address`` beside the same over HTTP, and what its processes
  weigh at most (``--smoke --parts bulk --bulk-rows 2000 20000``: whether that grows with the file);
- rate: jobs/s at which 99 of 100 jobs are answered within a second, of the service and of the peer;
- promotion: seconds from setting an alias to every replica answering with that version, 20 changes;
- chaos: one of the replicas killed under load: jobs lost, latency, time until it is back;
- memory: processes with 16 and with 100 experts.

Every part is a table and a file of its own, ``host_<part>.json``, written as soon as it is measured.

    python -m benchmarks host                          everything, a quarter of an hour on two cores
    python -m benchmarks.host --parts overhead rate    some of it
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.bench import Report, bench_base
from benchmarks.hosting import bulk, chaos, memory, overhead, peer, promotion, rate
from benchmarks.hosting.size import SMOKE, Size
from benchmarks.hosting.stage import Setup, Stage, standing
from benchmarks.hosting.stock import Stock
from fleet.cluster.session import connect
from fleet.engine.specs import WEIGHTS
from fleet.signals import terminate_as_interrupt

PARTS: Mapping[str, tuple[str, Callable[[Stage, Report], None]]] = {
    "overhead": ("The service over the bare engine", overhead.measure),
    "peer": ("Jobs for many experts against Serve's multiplexing with PEFT", peer.measure),
    "bulk": ("Files of jobs through fleet route --address", bulk.measure),
    "rate": ("Jobs a second, 99 of 100 answered within one", rate.measure),
    "promotion": ("A version that is made champion", promotion.measure),
    "chaos": ("A replica killed under load", chaos.measure),
    "memory": ("What processes weigh", memory.measure),
}
"""In the order in which they are measured: the last ones change what is served."""


def main(argv: Sequence[str] = ()) -> None:
    arguments = _parser().parse_args(argv)
    size = SMOKE if arguments.smoke else Size()
    if arguments.bulk_rows:
        size = replace(size, bulk_rows=tuple(arguments.bulk_rows))
    setup = Setup(
        size, arguments.replicas or size.replicas, arguments.threads or size.threads, arguments.weights
    )
    parts = [part for part in PARTS if part in (arguments.parts or PARTS)]
    started = time.monotonic()
    failed: list[str] = []
    with (
        bench_base(arguments.smoke) as base,
        tempfile.TemporaryDirectory(prefix="bench-host-") as scratch,
        connect(cpus=3 * setup.replicas * setup.threads + 1),
        terminate_as_interrupt(),  # Ray sets a handler of its own when it starts
    ):
        stock = Stock(Path(scratch), base, size.lora, size.kinds)
        with standing(setup, stock, peer="peer" in parts, bare="overhead" in parts) as stage:
            _say(started, "standing")
            for part in parts:
                title, measure = PARTS[part]
                report = Report(f"host_{part}", title, smoke=arguments.smoke)
                report.notes.append(
                    f"{setup.replicas} processes, {setup.threads} threads each; {size.experts} experts; "
                    f"{setup.weights}"
                )
                measure(stage, report)
                try:
                    report.finish()
                except SystemExit as error:  # the other parts go on
                    failed.append(str(error))
                _say(started, part)
    if failed:
        raise SystemExit("; ".join(failed))


def _say(started: float, what: str) -> None:
    print(f"[{time.monotonic() - started:.0f} s] {what}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.host",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), help="only these")
    parser.add_argument("--replicas", type=int, help="processes of service, peer and bare engine")
    parser.add_argument("--threads", type=int, help="of each process")
    parser.add_argument("--bulk-rows", type=int, nargs="+", help="jobs of each file of the part bulk")
    parser.add_argument(
        "--weights", choices=WEIGHTS, default="bf16", help="of the service and the bare engine"
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny random base: does it run?")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
