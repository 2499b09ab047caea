"""``make bench``: every bench, or those named in BENCH. Each prints one table and writes JSON beside it.

make bench                     all
make bench BENCH=mixed_batch   one
"""

from __future__ import annotations

import importlib
import sys

BENCHES = ("mixed_batch", "route_starter")


def main() -> None:
    names = sys.argv[1:] or BENCHES
    if unknown := sorted(set(names) - set(BENCHES)):
        sys.exit(f"no bench called {', '.join(unknown)}; there are: {', '.join(BENCHES)}")
    for name in names:
        importlib.import_module(f"benchmarks.{name}").main()


main()
