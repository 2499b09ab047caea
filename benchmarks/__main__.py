"""``make bench``: every bench, or those named in BENCH. Each prints one table and writes JSON beside it.

make bench                     all
make bench BENCH=serve_mixed   one
"""

from __future__ import annotations

import importlib
import sys

BENCHES = ("limit", "quality", "route", "route_starter", "scale", "serve_mixed", "train", "weights")


def main() -> None:
    names = sys.argv[1:] or BENCHES
    if unknown := sorted(set(names) - set(BENCHES)):
        sys.exit(f"no bench called {', '.join(unknown)}; there are: {', '.join(BENCHES)}")
    for name in names:
        importlib.import_module(f"benchmarks.{name}").main()


main()
