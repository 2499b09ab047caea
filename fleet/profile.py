"""What an expert is for, as its own manifest says. Knows nothing of weights, hosts or registries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleet.manifest import Kind, Manifest


@dataclass(frozen=True, slots=True)
class Profile:
    """One version of an expert, to people and programs that want to give it jobs."""

    version: int
    digest: str
    description: str
    kind: Kind
    fields: tuple[str, ...]
    """A job's named fields; with one of them a bare text will do."""
    labels: tuple[str, ...]
    """The answers of a classification."""
    schema: Mapping[str, Any] | None
    """JSON Schema of an extraction's answers."""
    max_input_tokens: int
    max_output_tokens: int

    @classmethod
    def of(cls, manifest: Manifest, version: int, digest: str) -> Profile:
        return cls(
            version,
            digest,
            manifest.description,
            manifest.kind,
            tuple(manifest.input),
            tuple(manifest.labels or ()),
            manifest.schema_,
            manifest.serving.max_input_tokens,
            manifest.serving.max_output_tokens,
        )
