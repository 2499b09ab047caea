"""The scheduler: answers for a mixed batch of jobs that join and leave at every step.

A step feeds each running job its pending tokens (the suffix at first, later the chosen token with the
forced ones behind it), through the frozen trunk and, with the job's adapter, through the rest. Then the
constraint says which tokens may follow: none has to be computed when one is possible, only the allowed
rows of the head are multiplied when few are. Knows nothing of routing, versions or training.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fleet.engine.adapters import AdapterBank
from fleet.engine.batch import Batch
from fleet.engine.choice import Ask, choose
from fleet.engine.constraint import Constraint
from fleet.engine.gemma import Gemma
from fleet.engine.specs import TextSpec
from fleet.engine.text_constraint import TextConstraint
from fleet.engine.trunk import TrunkState
from fleet.errors import JobError


@dataclass(frozen=True, slots=True)
class Request:
    """One job for one expert, ready to be answered."""

    job_id: str
    state: TrunkState
    suffix: tuple[int, ...]
    constraint: Constraint
    slot: int
    """The expert's place in the bank; -1 is the bare base."""
    max_output_tokens: int
    first_layer: int
    """The first layer that the expert adapts; below the trunk's depth the trunk states are of no use."""
    temperature: float = 1.0
    """Calibration of the confidence; does not change the answer."""
    sampling: TextSpec | None = None
    """How free text is drawn; None takes the likeliest token, and keeps the branching points' logits."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What came of a request; without a value when the expert failed or the job cannot be answered."""

    job_id: str
    value: Any
    text: str
    tokens: int
    """Output tokens, the end token included."""
    confidence: float
    """Product of the renormalised, calibrated probabilities at the branching points."""
    truncated: bool
    computed_steps: int
    forced_tokens: int
    head_rows: int
    """Head rows multiplied for this answer in all."""
    branches: tuple[tuple[Tensor, int], ...]
    """Per branching point the (largest) logits of the allowed tokens and the index of the chosen one; none
    of free text, whose confidence nobody calibrates."""
    error: str | None = None
    """Why the expert failed: it should not answer any more."""
    fault: str | None = None
    """Why this job alone has no answer."""


@dataclass(slots=True)
class _Running:
    request: Request
    row: int
    pending: list[int]
    trunk_past: int = 0
    rest_past: int = 0
    output: list[int] = field(default_factory=list)
    steps: int = 0
    forced: int = 0
    head_rows: int = 0
    log_confidence: float = 0.0
    branches: list[tuple[Tensor, int]] = field(default_factory=list)
    generator: torch.Generator | None = None
    error: str | None = None
    """The expert failed."""
    fault: str | None = None
    """The job cannot be answered, and the expert is not to blame."""
    truncated: bool = False

    @property
    def whole(self) -> bool:
        """Whether this job goes through all layers with its adapter, the trunk's included."""
        return self.request.first_layer < self.request.state.depth

    @property
    def ended(self) -> bool:
        return bool(self.error or self.fault or self.truncated or self.request.constraint.done)


class Scheduler:
    """Continuous batching over one base and one bank; one thread calls ``step`` in a loop.

    ``model`` may be a lighter one (``Gemma.int8``). ``decoder``, if given, is the same in weights that only
    decode (``Gemma.int4``): it takes every step of a
    job but the first, and all products with the whole head. A job's weights never depend on its company.
    """

    def __init__(
        self,
        model: Gemma,
        bank: AdapterBank | None,
        depth: int,
        *,
        max_rows: int = 32,
        decoder: Gemma | None = None,
    ) -> None:
        self._model = model
        self._decoder = decoder
        self._bank = bank
        self._depth = depth
        self._max_rows = max_rows
        self._cache = model.cache()
        self._waiting: deque[Request] = deque()
        self._running: list[_Running] = []
        self._free_rows = list(range(max_rows))

    def submit(self, request: Request) -> None:
        if request.state.depth != self._depth:
            raise ValueError(
                f"trunk states of depth {request.state.depth}, the scheduler works with {self._depth}"
            )
        self._waiting.append(request)

    def cancel(self, job_id: str) -> bool:
        """Drop a waiting or running job; its place is free for the next step. False if unknown."""
        for request in self._waiting:
            if request.job_id == job_id:
                self._waiting.remove(request)
                return True
        for running in self._running:
            if running.request.job_id == job_id:
                self._release(running)
                return True
        return False

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def room(self) -> int:
        """How many requests more would join the next step."""
        return max(0, len(self._free_rows) - len(self._waiting))

    def rebank(self, bank: AdapterBank | None) -> None:
        """Go on with another bank that holds the same adapters in the same slots, and perhaps more."""
        self._bank = bank

    def texts(self, job_ids: Collection[str]) -> dict[str, str]:
        """What is certain so far of the free texts that these jobs are being answered with."""
        return {
            running.request.job_id: running.request.constraint.certain()
            for running in self._running
            if running.request.job_id in job_ids and isinstance(running.request.constraint, TextConstraint)
        }

    def run(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer all; results in the order given (job ids must differ)."""
        for request in requests:
            self.submit(request)
        done: dict[str, Completion] = {}
        while self.busy:
            done.update((completion.job_id, completion) for completion in self.step())
        return [done[request.job_id] for request in requests]

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """One forward pass for everything that runs; the jobs that ended with it."""
        finished = self._admit()
        for group in self._groups():
            self._choose(group, self._forward(group))
        for running in list(self._running):
            if running.ended:
                self._release(running)
                finished.append(_complete(running))
        return finished

    def _groups(self) -> list[list[_Running]]:
        """The running jobs, by what one forward pass can take together."""
        groups: dict[tuple[bool, bool, int], list[_Running]] = {}
        # Rows of one expert stand together: one group of products for each.
        for running in sorted(self._running, key=lambda running: running.request.slot):
            own = -1 if self._bank is None else self._bank.pass_of(running.request.slot)
            groups.setdefault((running.whole, self._decodes(running), own), []).append(running)
        return list(groups.values())

    def _decodes(self, running: _Running) -> bool:
        """Whether the job's next pass takes the decoding weights: all but its first, whoever is beside it."""
        return self._decoder is not None and running.rest_past > 0

    def _admit(self) -> list[Completion]:
        finished = []
        while self._waiting and self._free_rows:
            request = self._waiting.popleft()
            running = _Running(request, heapq.heappop(self._free_rows), list(request.suffix))
            sampling = request.sampling
            if sampling is not None and sampling.temperature > 0:
                running.generator = torch.Generator().manual_seed(sampling.seed)
            _force(running)
            if running.ended:
                heapq.heappush(self._free_rows, running.row)
                finished.append(_complete(running))
                continue
            self._running.append(running)
        return finished

    def _release(self, running: _Running) -> None:
        self._running.remove(running)
        heapq.heappush(self._free_rows, running.row)
        if running.error:
            # A masked key still multiplies its value by zero, and zero times NaN is NaN.
            for held in (*self._cache.k, *self._cache.v):
                held[running.row].zero_()

    def _forward(self, group: list[_Running]) -> Tensor:
        """Normed hidden state ``[B, D]`` of each job's last token; the group is one of ``_groups``."""
        whole, depth, top = group[0].whole, self._depth, self._model.config.layers
        model = self._decoder if self._decoder is not None and self._decodes(group[0]) else self._model
        if self._bank is not None:
            model = self._bank.model(model, group[0].request.slot)
        fresh = [running for running in group if running.rest_past == 0]
        for running in fresh:
            if not whole:
                state = running.request.state
                running.trunk_past = len(state.ids)
            else:
                running.pending = [*running.request.state.ids, *running.pending]
        longest = max(running.trunk_past + len(running.pending) for running in group)
        # The lowest rows are given out first, so few jobs need little room.
        highest = max(running.row for running in self._running)
        self._cache.reserve(highest + 1, -(-longest // 64) * 64)
        rows = torch.tensor([running.row for running in group], device=model.device)
        ids = torch.tensor([i for running in group for i in running.pending], device=model.device)
        new = [len(running.pending) for running in group]
        h = model.embed(ids)
        if not whole:
            if fresh and depth:
                self._cache.put(
                    [running.row for running in fresh], [running.request.state.keys for running in fresh]
                )
            batch = Batch.of(new, [running.trunk_past for running in group], model.device)
            h = model.run(h, batch, (0, depth), cache=self._cache, cache_rows=rows)
            parts = []
            for running, part in zip(group, h.split(new), strict=True):
                parts += [running.request.state.hidden, part] if running.rest_past == 0 else [part]
            h = torch.cat(parts)
            new = [
                n + (len(running.request.state.ids) if running.rest_past == 0 else 0)
                for running, n in zip(group, new, strict=True)
            ]
        batch = Batch.of(new, [running.rest_past for running in group], model.device)
        adapters = None
        if self._bank is not None:
            slots = [running.request.slot for running in group]
            adapters = self._bank.select(slots, batch, dtype=model.dtype)
        first = 0 if whole else depth
        h = model.run(
            h, batch, (first, top), adapters=adapters, cache=self._cache, cache_rows=rows, keep=batch.last
        )
        for running, n in zip(group, new, strict=True):
            running.rest_past += n
            running.trunk_past = running.rest_past
            running.pending = []
            running.steps += 1
        return model.norm(h)

    def _choose(self, group: list[_Running], h: Tensor) -> None:
        """Pick each job's next token, then what it forces."""
        asks = [_ask(running) for running in group]
        for running, choice in zip(group, choose(self._decoder or self._model, h, asks), strict=True):
            running.head_rows += choice.rows
            if choice.token is None:
                running.error = "the expert computed NaN or infinity"
                continue
            running.log_confidence += choice.log_probability
            if choice.branch is not None:
                running.branches.append(choice.branch)
            running.output.append(choice.token)
            running.pending.append(choice.token)
            try:
                running.request.constraint.advance(choice.token)
            except JobError as error:  # a grammar at its limits
                running.fault = str(error)
            else:
                _force(running)


def _ask(running: _Running) -> Ask:
    request = running.request
    allowed = request.constraint.allowed()
    mask = request.constraint.mask() if allowed is None else None
    return Ask(allowed, mask, request.temperature, request.sampling, running.generator)


def _force(running: _Running) -> None:
    """Append what the constraint dictates, and close the answer when the limit has come."""
    constraint, limit = running.request.constraint, running.request.max_output_tokens
    try:
        if not constraint.done:
            tokens = constraint.forced()
            running.forced += len(tokens)
            running.output += tokens
            running.pending += tokens
        if not constraint.done and len(running.output) >= limit:
            running.truncated = True
            running.output += constraint.close()
    except JobError as error:  # a grammar at its limits, or a pattern that no short text completes
        running.fault = str(error)


def _complete(running: _Running) -> Completion:
    constraint = running.request.constraint
    answered = running.error is None and running.fault is None
    return Completion(
        job_id=running.request.job_id,
        value=constraint.value() if answered else None,
        text=constraint.text() if answered else "",
        tokens=len(running.output),
        confidence=math.exp(running.log_confidence),
        truncated=running.truncated,
        computed_steps=running.steps,
        forced_tokens=running.forced,
        head_rows=running.head_rows,
        branches=tuple(running.branches),
        error=running.error,
        fault=running.fault,
    )
