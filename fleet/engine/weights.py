"""What the frozen weights are multiplied as while they serve. Knows nothing of experts or jobs."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.engine.gemma import Gemma
from fleet.engine.specs import Weights


@dataclass(frozen=True, slots=True)
class ServedModels:
    """One base in the weights that serve it."""

    reader: Gemma
    """For trunks, and for all passes if there is no decoder."""
    decoder: Gemma | None = None
    """For all passes of a job but the first (``fleet.engine.decode.Scheduler``)."""

    @classmethod
    def of(cls, model: Gemma, weights: Weights) -> ServedModels:
        """Raises ``ValueError`` for lighter weights on another device than the CPU."""
        if weights == "int8":
            return cls(model.int8())
        return cls(model, model.int4() if weights == "int4" else None)
