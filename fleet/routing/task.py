"""A task as the router learns it. Knows no manifests and no models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["RouterTask"]


@dataclass(frozen=True, slots=True)
class RouterTask:
    """A task as the router learns it."""

    name: str
    texts: Sequence[str]
    """Canonical texts of its training inputs."""
    examples: Sequence[str]
    """How a person asks for it."""
    data_digest: str
    """Of texts, examples and description: the same digest means nothing to learn anew."""
    sources: Sequence[str]
    """Of each text: file and line."""
    description: str = ""
    """What it does, in a sentence."""

    def __post_init__(self) -> None:
        if not any(text.strip() for text in self.texts):
            raise ValueError(f"{self.name}: the router needs at least one text of a task")
