"""What jobs in general look like: texts of many kinds that the router contrasts every task with.

They are written for this purpose (outlier exposure, Hendrycks et al. 2019, arXiv:1812.04606): questions,
commands, code, sums, small talk, in about a dozen languages, in groups by kind. Knows nothing of any
fleet's tasks.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["Background", "load_background"]


@dataclass(frozen=True, slots=True)
class Background:
    """Texts and their kinds, and a digest of both."""

    texts: tuple[str, ...]
    groups: tuple[str, ...]
    digest: str


def load_background() -> Background:
    """The texts that ship with the package."""
    content = files("fleet.routing").joinpath("background.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in content.splitlines()]
    return Background(
        tuple(row["text"] for row in rows),
        tuple(row["group"] for row in rows),
        hashlib.sha256(content.encode()).hexdigest(),
    )
