"""Experts in memory: fetched by digest, checked, given a slot in the bank, or quarantined with a reason.

One that fails disturbs no other: its slot is freed before anybody is asked, and those that are there
keep theirs when the bank grows. Knows nothing of jobs, of routing or of who became champion and why.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.base import Base
from fleet.engine.body import Body
from fleet.engine.expert import ExpertCard, check_fits, read_expert, self_check
from fleet.engine.specs import TaskSpec
from fleet.errors import ArtifactError, FleetError
from fleet.manifest import Manifest
from fleet.recipe import task_spec
from fleet.registry.store import Registry
from fleet.registry.version import VersionInfo

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadedExpert:
    """An expert that passed its checks, and its slot in the bank."""

    info: VersionInfo
    spec: TaskSpec
    card: ExpertCard
    adapter: Adapter | Body
    slot: int


class LoadedExperts:
    """The champions that have been needed so far, over one base. Not for concurrent use by threads."""

    def __init__(
        self, base: Base, registry: Registry, champions: Mapping[str, VersionInfo], *, depth: int, cache: Path
    ) -> None:
        """``depth`` is the number of trunk layers; artifacts are downloaded into ``cache``."""
        self.quarantined: dict[str, str] = {}
        """Task to reason."""
        self.bank: AdapterBank | None = None
        """What the slots are about; another object after it had to grow, None before the first expert."""
        self._base = base
        self._registry = registry
        self._champions = champions
        self._depth = depth
        self._cache = cache
        self._experts: dict[str, LoadedExpert] = {}

    def load(self, tasks: Sequence[str]) -> dict[str, LoadedExpert]:
        """Those of the tasks' experts that may answer; the others are quarantined."""
        experts: dict[str, LoadedExpert] = {}
        for task in tasks:
            if task in self.quarantined:
                continue
            try:
                experts[task] = self._expert(task)
            except FleetError as error:
                self.quarantine(task, str(error))
            except Exception as error:  # whatever an artifact holds, only its own jobs may suffer
                self.quarantine(task, f"{type(error).__name__}: {error}")
        return experts

    def quarantine(self, task: str, reason: str) -> None:
        """No job is given to the task's expert any more; what is in the bank stays where it is."""
        self.quarantined[task] = reason
        log.error("%s is quarantined: %s", task, reason)

    def dismiss(self, task: str, reason: str) -> None:
        """Quarantine the task's expert and free its slot. No scheduler may be running over the bank."""
        self.quarantine(task, reason)
        expert = self._experts.pop(task, None)
        if expert is not None and self.bank is not None:
            self.bank.clear(expert.slot)

    def _expert(self, task: str) -> LoadedExpert:
        """The loaded, checked champion of a task. Raises ``FleetError`` when it must not answer."""
        if task in self._experts:
            return self._experts[task]
        info = self._champions[task]
        adapter, card = read_expert(self._registry.fetch(info, self._cache), digest=info.digest)
        spec = task_spec(Manifest.model_validate(card.manifest))
        check_fits(self._base, spec, card)
        made = adapter.full if isinstance(adapter, Body) else adapter.lora
        if made != spec.adapter:
            # Its first layer decides from where on a job is computed with it.
            raise ArtifactError(f"{task}: the adapter is {made}, its manifest says {spec.adapter}")
        adapter.check(self._base.model.config)
        bank, slot = self._place(adapter)
        bank.load(slot, adapter)
        try:
            self_check(self._base, bank, slot, spec, card)
        except Exception:
            bank.clear(slot)
            raise
        expert = self._experts[task] = LoadedExpert(info, spec, card, adapter, slot)
        return expert

    def _place(self, adapter: Adapter | Body) -> tuple[AdapterBank, int]:
        """A free slot in a bank that can hold this adapter; the bank is made anew when it cannot."""
        bank, model = self.bank, self._base.model
        if isinstance(adapter, Body):  # any free slot will do
            rank, first = 0, model.config.layers
        else:
            rank, first = adapter.lora.rank, adapter.lora.layers[0]
        if bank is not None and rank <= bank.rank and bank.layers[0] <= first:
            free = [slot for slot in range(bank.slots) if not bank.holds(slot)]
            if free:
                return bank, free[0]
        first = min([first, self._depth, *([] if bank is None else [bank.layers[0]])])
        rank = max([rank, *([] if bank is None else [bank.rank])])
        grown = AdapterBank(
            model.config,
            # Room for more, and for the slots that are taken now, whichever they are.
            max([4, 2 * len(self._experts), *(expert.slot + 2 for expert in self._experts.values())]),
            rank,
            (first, model.config.layers),
            dtype=model.dtype,
            device=model.device,
        )
        for expert in self._experts.values():
            grown.load(expert.slot, expert.adapter)
        self.bank = grown
        return grown, next(slot for slot in range(grown.slots) if not grown.holds(slot))
