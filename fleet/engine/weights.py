"""What the frozen weights are multiplied as while they serve. Knows nothing of experts or jobs."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.engine.gemma import Gemma
from fleet.engine.int8 import kernel_fault
from fleet.engine.specs import Weights


def weights_fault(weights: Weights) -> str | None:
    """Why this machine's processor cannot answer in these weights; None if it can."""
    return kernel_fault() if weights == "int8" else None


@dataclass(frozen=True, slots=True)
class ServedModels:
    """One base in the weights that serve it."""

    reader: Gemma
    """For trunks, and for all passes if there is no decoder. Its layers of the trunk are the base's own: what
    the router sees, and decides, is the same whatever serves."""
    decoder: Gemma | None = None
    """For all passes of a job but the first (``fleet.engine.decode.Scheduler``)."""

    @classmethod
    def of(cls, model: Gemma, weights: Weights, depth: int) -> ServedModels:
        """For a trunk of so many layers. Raises ``ValueError`` where the device has no such weights."""
        if weights == "int8":
            return cls(model.int8(depth).packed())
        return cls(model.packed(), model.int4() if weights == "int4" else None)
