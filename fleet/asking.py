"""A job as the engine sees it: its tokens, and what one expert is asked. Knows nothing of who is champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleet.demand import under
from fleet.engine.base import Base
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.decode import Request
from fleet.engine.gemma import Gemma
from fleet.engine.prompt import Renderer, render_job
from fleet.engine.specs import PromptSpec, TextSpec
from fleet.engine.trunk import run_trunk
from fleet.errors import JobError
from fleet.loaded import LoadedExpert
from fleet.routing.reading import Readings
from fleet.routing.tidy import tidy
from fleet.ticket import Ticket

ROUTED_TOKENS = 8192
"""Longest job that is looked at at all; an expert's own limit is usually lower."""
TOKEN_CHARACTERS = 16
"""More than any text has on average for each of its tokens."""


class Asking:
    """For one base and trunk; not for concurrent use by threads."""

    def __init__(self, base: Base, model: Gemma, depth: int, max_tokens: int) -> None:
        """``model`` runs trunks; a job of more than ``max_tokens`` is not looked at."""
        self._model = model
        self._depth = depth
        self._max_tokens = max_tokens
        self._renderer = Renderer.of(base.tokenizer)
        self._compiler = ConstraintCompiler(base.tokenizer)

    def read(self, ticket: Ticket) -> None:
        """Render the ticket's fields and cut them into tokens. Raises ``JobError``."""
        ticket.text = bare_text(ticket.fields)
        most = self._max_tokens * TOKEN_CHARACTERS
        if len(ticket.text) > most:  # before it is cut into tokens, which holds everybody else up
            raise JobError(
                f"the job has {len(ticket.text):,} characters, at most {most:,} are read: shorten it"
            )
        ticket.ids = self._renderer.job_ids(ticket.text)
        ticket.tidy = tidy(ticket.text)
        if len(ticket.ids) > self._max_tokens:
            raise JobError(
                f"the job has {len(ticket.ids)} tokens, at most {self._max_tokens} are read: shorten it"
            )

    def run_trunk(self, tickets: Sequence[Ticket], taps: Sequence[int]) -> None:
        """Give tickets that were read their states, tapped after these layers for the router if it is asked.

        One pass for all; an untidy text takes part a second time, tidied, and the router reads that.
        """
        untidy = [
            ticket for ticket in tickets if taps and not ticket.job.tasks and ticket.tidy != ticket.text
        ]
        ids = [ticket.ids for ticket in tickets]
        ids += [self._renderer.job_ids(ticket.tidy) for ticket in untidy]
        states = run_trunk(self._model, self._depth, ids, taps=taps)
        for ticket, state in zip(tickets, states[: len(tickets)], strict=True):
            ticket.state = ticket.routed = state
        for ticket, state in zip(untidy, states[len(tickets) :], strict=True):
            ticket.routed = state

    def request(self, ticket: Ticket, expert: LoadedExpert, name: str) -> Request:
        """What an expert in memory is asked of a ticket that was read and has its trunk states.

        Raises ``JobError`` for what is wrong with the job, ``ValueError`` for a constraint that this release
        does not know.
        """
        spec = expert.spec
        if ticket.job.demand is not None:
            spec = under(spec, ticket.job.demand)
        fields = ticket.fields
        if len(spec.prompt.fields) == 1 and len(fields) == 1:
            # A bare text goes into the one field that there is, whatever its name.
            fields = {spec.prompt.fields[0]: next(iter(fields.values()))}
        text = render_job(spec.prompt, fields)
        state = ticket.state if text == ticket.text else ticket.readings.get(text)
        if state is None:
            ids = self._renderer.job_ids(text)
            (state,) = run_trunk(self._model, self._depth, [ids])
            ticket.readings[text] = state
        if len(state.ids) > spec.max_input_tokens:
            raise JobError(
                f"the job has {len(state.ids)} tokens, {spec.name} takes {spec.max_input_tokens}: "
                "shorten it, or raise serving.max_input_tokens and train again"
            )
        return Request(
            job_id=name,
            state=state,
            suffix=tuple(self._renderer.suffix_ids(spec.prompt.suffix)),
            constraint=self._compiler.start(spec.constraint, text),
            slot=expert.slot,
            max_output_tokens=spec.max_output_tokens,
            first_layer=spec.adapter.layers[0],
            temperature=expert.card.temperature,
            sampling=spec.constraint if isinstance(spec.constraint, TextSpec) else None,
        )


def bare_text(fields: Mapping[str, str]) -> str:
    """A job as the router reads it, before it is known whose it is: its fields in their own order."""
    return render_job(PromptSpec(tuple(fields) or ("text",), " "), fields)


def readings_of(tickets: Sequence[Ticket], taps: Sequence[int]) -> Readings:
    """What the router reads of tickets that have their states, in their order."""
    states = [ticket.routed for ticket in tickets if ticket.routed is not None]
    return Readings.of(states, [ticket.tidy for ticket in tickets], taps)
