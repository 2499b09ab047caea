"""``make bench``: every bench, or those named in BENCH. Each prints one table and writes JSON beside it.

make bench                     all
make bench BENCH=serve_mixed   one

Each runs in a process of its own: threads, memory and caches of one are nothing to the next.
"""

from __future__ import annotations

import subprocess
import sys

BENCHES = (
    "host",
    "limit",
    "quality",
    "route",
    "route_compound",
    "route_public",
    "route_starter",
    "scale",
    "serve_mixed",
    "train",
    "weights",
)


def main() -> None:
    names = sys.argv[1:] or BENCHES
    if unknown := sorted(set(names) - set(BENCHES)):
        sys.exit(f"no bench called {', '.join(unknown)}; there are: {', '.join(BENCHES)}")
    codes = {name: subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode for name in names}
    if failed := [name for name, code in codes.items() if code]:
        sys.exit(f"failed: {', '.join(failed)}")


main()
