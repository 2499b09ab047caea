"""One expert's work for a ticket, and what it is certified with. Knows nothing of who does it."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.engine.decode import Completion
from fleet.engine.specs import Weights
from fleet.job import Receipt
from fleet.registry.version import VersionInfo
from fleet.ticket import Ticket


@dataclass(frozen=True, slots=True)
class Part:
    """``task``'s share of a ticket while it is being answered."""

    ticket: Ticket
    task: str
    input_tokens: int

    @property
    def info(self) -> VersionInfo:
        """The version that was resolved when the job was admitted."""
        return self.ticket.versions[self.task]

    def receipt(self, completion: Completion, base_fingerprint: str, weights: Weights) -> Receipt:
        """What goes with the answer."""
        ticket = self.ticket
        assert ticket.decision is not None
        return Receipt(
            task=self.info.task,
            version=self.info.version,
            digest=self.info.digest,
            base_fingerprint=base_fingerprint,
            router_version=ticket.router_version,
            decision=ticket.decision.kind if not ticket.job.tasks else "forced",
            confidence=completion.confidence,
            input_tokens=self.input_tokens,
            output_tokens=completion.tokens,
            weights=weights,
            milliseconds=dict(ticket.milliseconds),
        )
