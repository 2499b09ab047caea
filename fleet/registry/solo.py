"""One expert over one base, without router, registry or cluster: what a pyfunc model answers with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.engine.adapters import AdapterBank
from fleet.engine.base import Base, load_base, resolve_base
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.evaluate import answer_examples
from fleet.engine.expert import ExpertCard, check_fits, read_expert, self_check
from fleet.engine.specs import Example, TaskSpec
from fleet.manifest import Manifest
from fleet.recipe import task_spec


@dataclass(frozen=True, slots=True)
class SoloExpert:
    """An expert in the only slot of its own bank."""

    base: Base
    bank: AdapterBank
    spec: TaskSpec
    card: ExpertCard
    compiler: ConstraintCompiler

    @classmethod
    def load(cls, folder: Path, digest: str, base_name: str, cache_dir: Path) -> SoloExpert:
        """Load the artifact in ``folder`` over the base of that name or folder, and check it.

        Raises ``BaseError`` without the base, ``SealError`` when it is another than the expert was
        trained over, ``ArtifactError`` when the expert does not say what it said when it was made.
        """
        adapter, card = read_expert(folder, digest=digest)
        base = load_base(resolve_base(base_name, cache_dir))
        spec = task_spec(Manifest.model_validate(dict(card.manifest)))
        check_fits(base, spec, card)
        bank = AdapterBank.alone(base.model, adapter)
        self_check(base, bank, 0, spec, card)
        return cls(base, bank, spec, card, ConstraintCompiler(base.tokenizer))

    def answer(self, jobs: Sequence[Mapping[str, str]]) -> list[Any]:
        """The completions of ``jobs``, in order, with the card's calibration."""
        examples = [Example(fields=job, output=None) for job in jobs]
        return answer_examples(
            self.base, self.bank, 0, self.spec, examples, self.compiler, temperature=self.card.temperature
        )
