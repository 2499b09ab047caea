"""What jobs in general look like: texts of many kinds that the router contrasts every task with.

The packaged ones are written for this purpose (outlier exposure, Hendrycks et al. 2019, arXiv:1812.04606):
questions, commands, code, sums, small talk, in about a dozen languages, in groups by kind. A fleet may bring
its own: jobs that it gets and that are for none of its tasks. Knows nothing of any fleet's tasks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

from fleet.routing.content import content_digest

__all__ = ["NOBODY", "Background", "Foreign", "load_background"]

LIMIT = 512
"""Jobs of nobody that are learned from."""


@dataclass(frozen=True, slots=True)
class Background:
    """Texts and their kinds, and a digest of both."""

    texts: tuple[str, ...]
    groups: tuple[str, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """A fleet's own jobs of nobody, as canonical texts."""

    texts: tuple[str, ...] = ()
    digest: str = ""

    @classmethod
    def of(cls, texts: Iterable[str]) -> Foreign:
        """At most ``LIMIT``, chosen by their content; in whatever order they come."""
        chosen = sorted(
            {text for text in texts if text.strip()}, key=lambda text: (content_digest(text), text)
        )
        chosen = chosen[:LIMIT]
        content = json.dumps(chosen, ensure_ascii=False)
        return cls(tuple(chosen), hashlib.sha256(content.encode()).hexdigest() if chosen else "")


NOBODY = Foreign()


def load_background() -> Background:
    """The texts that ship with the package."""
    content = files("fleet.routing").joinpath("background.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in content.splitlines()]
    return Background(
        tuple(row["text"] for row in rows),
        tuple(row["group"] for row in rows),
        hashlib.sha256(content.encode()).hexdigest(),
    )
