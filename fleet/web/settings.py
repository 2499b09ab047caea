"""What the web interface is told. Knows nothing of where it is written."""

from __future__ import annotations

from dataclasses import dataclass, field

from fleet.web.keys import KeySource


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The same on every ingress."""

    max_body: int = 4 * 2**20
    """Bytes of the largest request."""
    keys: KeySource = field(default_factory=KeySource)
    """Where the API keys are; none are needed if nothing is said."""
    hint_secret: str = field(default="", repr=False)
    """With which MLflow signs its hints; without one there is no place for them."""
