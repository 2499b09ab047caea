"""Experts in memory: a slot in the bank for each, by digest. The bank belongs to one thread.

An expert is put in its place before another one has to leave, and none leaves while a job needs it. Its
slot is all that is kept of its matrices, in bf16 as in its files. Knows nothing of jobs, of routing, of
checks, or of who became champion and why.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

import torch

from fleet.checked import CheckedExpert
from fleet.engine.adapters import Adapter, AdapterBank, lora_bytes
from fleet.engine.base import Base
from fleet.engine.body import Body
from fleet.engine.expert import ExpertCard
from fleet.engine.specs import TaskSpec

EXPERT_BYTES = 4 * 2**30
"""Of experts that are kept in memory although no job needs them."""
SLOTS = 4
"""Of a bank at first."""


@dataclass(frozen=True, slots=True)
class LoadedExpert:
    """What an expert is, and its slot in the bank."""

    digest: str
    spec: TaskSpec
    card: ExpertCard
    size: int
    """Bytes of its tensors."""
    full: bool
    """Whether it is a full adapter."""
    slot: int


class LoadedExperts:
    """Checked experts in one bank, for one thread; ``holds`` and ``full`` may be asked by any."""

    def __init__(self, base: Base, *, depth: int, room: int = EXPERT_BYTES) -> None:
        """``depth`` is the number of trunk layers; ``room`` in bytes holds for experts that nobody needs."""
        self.bank: AdapterBank | None = None
        """What the slots are about; None before the first expert."""
        self._width = 0
        """Bytes of a LoRA slot in it."""
        self._base = base
        self._depth = depth
        self._room = room
        self._experts: OrderedDict[str, LoadedExpert] = OrderedDict()
        self._pins: Counter[str] = Counter()
        self._leaving: set[str] = set()

    def __contains__(self, digest: object) -> bool:
        return digest in self._experts

    def holds(self, digest: str, task: str) -> bool:
        """Whether this expert is here, and is one for ``task``."""
        expert = self._experts.get(digest)
        return expert is not None and expert.card.task == task

    def get(self, digest: str) -> LoadedExpert | None:
        """The expert, which counts as used now."""
        if digest in self._experts:
            self._experts.move_to_end(digest)
        return self._experts.get(digest)

    def checked(self, digest: str) -> CheckedExpert | None:
        """The expert, for another bank: its matrices are those in the slot, and change with it."""
        expert = self.get(digest)
        if expert is None or self.bank is None:
            return None
        return CheckedExpert(expert.digest, expert.spec, expert.card, self.bank.held(expert.slot))

    def add(self, checked: CheckedExpert) -> LoadedExpert:
        """Give an expert a slot; if room is short, those used longest ago leave, unless a job needs them."""
        self._leaving.discard(checked.digest)
        found = self.get(checked.digest)
        if found is not None:
            return found
        bank, slot = self._place(checked.adapter)
        bank.load(slot, checked.adapter)
        full = isinstance(checked.adapter, Body)
        expert = LoadedExpert(checked.digest, checked.spec, checked.card, checked.size, full, slot)
        self._experts[checked.digest] = expert
        self._make_room(checked.digest)
        return expert

    @property
    def full(self) -> bool:
        """Whether one more, as large as the largest here, would make another one leave."""
        sizes = self._sizes()
        return sum(sizes) + max(sizes, default=0) > self._room

    @property
    def _held(self) -> int:
        return sum(self._sizes())

    def _sizes(self) -> list[int]:
        # Of a copy, which is made in one go: whoever follows champions looks while jobs move experts about.
        return [self._size(expert) for expert in list(self._experts.values())]

    def _size(self, expert: LoadedExpert) -> int:
        """Bytes that it takes at most: LoRA of any rank writes into every page of its slot's B."""
        return expert.size if expert.full else max(expert.size, self._width)

    def pin(self, digest: str) -> None:
        """A job needs this expert, whether it is here already or not."""
        self._pins[digest] += 1

    def unpin(self, digest: str) -> None:
        """The job needs it no more."""
        self._pins[digest] -= 1
        if not self._pins[digest]:
            del self._pins[digest]
            if digest in self._leaving:
                self._free(digest)
            self._make_room()

    def drop(self, digest: str) -> None:
        """Free the expert's slot, as soon as no job needs it."""
        if digest in self._pins:
            self._leaving.add(digest)
        else:
            self._free(digest)

    def _free(self, digest: str) -> None:
        self._leaving.discard(digest)
        expert = self._experts.pop(digest, None)
        if expert is not None and self.bank is not None:
            self.bank.clear(expert.slot)

    def _make_room(self, newest: str = "") -> None:
        held = self._held
        for digest in list(self._experts):
            if held <= self._room:
                return
            if digest not in self._pins and digest != newest:
                held -= self._size(self._experts[digest])
                self._free(digest)

    def _place(self, adapter: Adapter | Body) -> tuple[AdapterBank, int]:
        """A free slot in the bank, which grows when it cannot hold this adapter."""
        bank, model = self.bank, self._base.model
        if isinstance(adapter, Body):  # any free slot will do
            rank, first = 0, self._depth
        else:
            rank, first = adapter.lora.rank, min(self._depth, adapter.lora.layers[0])
        layers = model.config.layers
        if bank is None:
            self._width = lora_bytes(model.config, rank, (first, layers))
            # As files hold them, also where products are taken in fp32.
            bank = self.bank = AdapterBank(
                model.config, SLOTS, rank, (first, layers), dtype=torch.bfloat16, device=model.device
            )
            return bank, 0
        rank, first = max(rank, bank.rank), min(first, bank.layers[0])
        if (rank, first) != (bank.rank, bank.layers[0]):
            # Everyone's place becomes larger, so some may have to leave first.
            self._width = lora_bytes(model.config, rank, (first, layers))
            self._make_room()
            bank.grow(bank.slots, rank, first)
        free = [slot for slot in range(bank.slots) if not bank.holds(slot)]
        if not free:
            free = [bank.slots]
            bank.grow(2 * bank.slots, rank, first)
        return bank, free[0]
