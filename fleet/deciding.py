"""The router's word on tickets, and who is asked because of it. Knows no experts and runs no trunk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fleet.asking import readings_of
from fleet.checked import LoadedRouter
from fleet.engine.base import Base
from fleet.engine.prompt import Renderer
from fleet.registry.version import VersionInfo
from fleet.routing.compound import Claim
from fleet.routing.decision import Decision
from fleet.routing.head import TOP, Router
from fleet.routing.tally import Tally
from fleet.ticket import Ticket


class Deciding:
    """For one base; what is decided goes into the tally. Not for concurrent use by threads."""

    def __init__(self, base: Base, tally: Tally) -> None:
        self._renderer = Renderer.of(base.tokenizer)
        self._tally = tally

    def decide(
        self, tickets: Sequence[Ticket], by: LoadedRouter, champions: Mapping[str, VersionInfo]
    ) -> None:
        """Give tickets that name no task, and have their states, a decision and the versions asked."""
        top = max([TOP, *(ticket.top for ticket in tickets)])
        decisions = by.router.decide(readings_of(tickets, by.router.taps), known=champions, top=top)
        for ticket, plain in zip(tickets, decisions, strict=True):
            made, _ = self._compound(plain, ticket, by.router)
            ticket.routed = None  # nobody reads it any more, and the ticket may stand in line
            # As the router decided it, whatever may be done about it.
            self._tally.add(by.version, made.kind)
            decision = made if ticket.job.allowed is None else made.within(ticket.job.allowed)
            if decision is None:
                ticket.refuse(_forbidden(made, ticket.job.allowed or ()), "forbidden")
                continue
            if decision.kind == "compound" and (missing := [t for t in decision.tasks if t not in champions]):
                words = f"the job needs {_and(decision.tasks)}, and there is no champion of {_and(missing)}"
                decision = replace(decision, reason=words)
                if ticket.job.all:
                    ticket.refuse(
                        f"{words}: promote a version (fleet promote), or name the other tasks", "quarantined"
                    )
            ticket.decision, ticket.router_version = decision, by.version
            if ticket.refused is not None:
                continue
            asked = _asked(decision, ticket)
            ticket.versions = {task: champions[task] for task in asked}

    def explain_compound(
        self, outline: dict[str, Any], ticket: Ticket, router: Router, champions: Mapping[str, VersionInfo]
    ) -> dict[str, Any]:
        """An explained decision, and which words of the job ask for which task, if it needs several."""
        (plain,) = router.decide(readings_of([ticket], router.taps), known=champions)
        decision, claims = self._compound(plain, ticket, router)
        if not claims or router.compounds is None:
            return outline
        return {
            "decision": decision.kind,
            "reason": decision.reason,
            "compound": router.compounds.outline(claims),
            "otherwise": outline,
        }

    def _compound(
        self, decision: Decision, ticket: Ticket, router: Router
    ) -> tuple[Decision, tuple[Claim, ...]]:
        if router.compounds is None or ticket.routed is None:
            return decision, ()
        return router.compounds.seek(
            decision, ticket.tidy, ticket.routed, router.ground.frame, self._renderer
        )


def _forbidden(made: Decision, allowed: Collection[str]) -> str:
    """Without the names of tasks that may not be seen."""
    if made.kind != "compound":
        return "the job belongs to an expert that it may not be given to"
    if mine := [task for task in made.tasks if task in allowed]:
        return (
            f"the job needs several experts, of which it may be given to {_and(mine)} alone: name it as task"
        )
    return "the job needs several experts, and may be given to none of them"


def _asked(decision: Decision, ticket: Ticket) -> Sequence[str]:
    if decision.kind == "route" and decision.task is not None:
        ranked = [task for task, _ in decision.scores if task != decision.task]
        return (decision.task, *ranked[: ticket.top - 1])
    if decision.kind == "clarify" and ticket.top > 1:
        return decision.tasks[: ticket.top]
    # Several tasks are never run because of one job unless it says so itself.
    return decision.tasks if decision.kind == "compound" and ticket.job.all else ()


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
