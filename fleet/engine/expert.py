"""An expert on disk: its adapter's two files and ``expert.json``; never pickle. Knows nothing of registries.

``expert.json`` says what the adapter was made from and how it must behave, so that a host can refuse
one made for another base or prompt before it answers anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fleet.engine.adapters import Adapter, AdapterBank, load_adapter, save_adapter
from fleet.engine.base import Base
from fleet.engine.batch import Batch
from fleet.engine.body import Body, is_body, load_body, save_body
from fleet.engine.digest import folder_digest
from fleet.engine.prompt import Renderer, seal
from fleet.engine.specs import TaskSpec
from fleet.errors import ArtifactError, DigestError, SealError

CARD_FILE = "expert.json"
FORMAT = 1
GOLDEN_ROWS = 8
"""Logits kept per golden prompt: the largest ones."""
GOLDEN_TOLERANCE = 0.5
"""Mean absolute difference of golden logits that is still rounding (bf16 on other machines)."""


@dataclass(frozen=True, slots=True)
class Golden:
    """A prompt and the largest next-token logits that the expert gave when it was made."""

    job: str
    tokens: tuple[int, ...]
    logits: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ExpertCard:
    """Everything ``expert.json`` holds."""

    task: str
    manifest: Mapping[str, Any]
    manifest_digest: str
    data_digest: str
    base_fingerprint: str
    seal: str
    temperature: float
    metrics: Mapping[str, Any]
    golden: tuple[Golden, ...]
    format: int = FORMAT
    extra: Mapping[str, Any] = field(default_factory=dict)


def write_expert(folder: Path, adapter: Adapter | Body, card: ExpertCard, base_name: str) -> str:
    """Write an artifact into an empty folder; its content digest."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(adapter, Body):
        save_body(folder, adapter, base_name)
    else:
        save_adapter(folder, adapter, base_name)
    (folder / CARD_FILE).write_text(json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n")
    return folder_digest(folder)


def read_expert(folder: Path, *, digest: str | None = None) -> tuple[Adapter | Body, ExpertCard]:
    """Read an artifact; with ``digest`` only if its bytes are those. Tensors are bf16, whoever wrote them.

    Raises ``DigestError`` for other bytes, ``ArtifactError`` for what cannot be read.
    """
    if digest is not None and (found := folder_digest(folder)) != digest:
        raise DigestError(
            f"the artifact in {folder.name} was altered: its digest is {found[:12]}, registered was "
            f"{digest[:12]}; promote another version or train the task again"
        )
    adapter = load_body(folder) if is_body(folder) else load_adapter(folder)
    try:
        plain = json.loads((folder / CARD_FILE).read_text())
        card = ExpertCard(**plain | {"golden": tuple(map(_golden, plain["golden"]))})
        if not 0 < float(card.temperature) < math.inf:
            raise ValueError(f"its temperature is {card.temperature}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder.name}/{CARD_FILE} cannot be read: {error}") from error
    if card.format != FORMAT:
        raise ArtifactError(
            f"{folder.name}/{CARD_FILE} has format {card.format}, this release reads {FORMAT}"
        )
    return adapter.as_stored(), card


def _golden(plain: Mapping[str, Any]) -> Golden:
    golden = Golden(str(plain["job"]), tuple(map(int, plain["tokens"])), tuple(map(float, plain["logits"])))
    if len(golden.tokens) != len(golden.logits) or any(token < 0 for token in golden.tokens):
        raise ValueError("a golden prompt's tokens and logits do not belong together")
    return golden


def check_fits(base: Base, spec: TaskSpec, card: ExpertCard) -> None:
    """Raise ``SealError`` unless the expert was made for this base, tokenizer and prompt."""
    if card.base_fingerprint != base.fingerprint:
        raise SealError(
            f"{card.task}: trained over base {card.base_fingerprint[:12]}, this is {base.fingerprint[:12]}; "
            "set `base` in fleet.yaml to the one it was trained with, or train it again"
        )
    if card.seal != (found := seal(Renderer.of(base.tokenizer), spec)):
        raise SealError(
            f"{card.task}: its prompt was sealed as {card.seal[:12]}, this release renders {found[:12]}; "
            "train it again"
        )


def golden_prompts(
    base: Base, bank: AdapterBank, slot: int, spec: TaskSpec, jobs: Sequence[str]
) -> tuple[Golden, ...]:
    """What the expert in a slot says next for these canonical job texts."""
    found = []
    for job in jobs:
        logits = _next_logits(base, bank, slot, spec, job)
        top, tokens = logits.topk(GOLDEN_ROWS)
        found.append(Golden(job, tuple(tokens.tolist()), tuple(round(x, 4) for x in top.tolist())))
    return tuple(found)


def self_check(base: Base, bank: AdapterBank, slot: int, spec: TaskSpec, card: ExpertCard) -> None:
    """Raise ``ArtifactError`` unless the loaded expert says what it said when it was made."""
    vocabulary = base.model.config.vocab
    for golden in card.golden:
        if max(golden.tokens, default=0) >= vocabulary:
            raise ArtifactError(f"{card.task}: a golden prompt's tokens are beyond the base's {vocabulary}")
        logits = _next_logits(base, bank, slot, spec, golden.job, golden.tokens)
        difference = float((logits - torch.tensor(golden.logits)).abs().mean())
        if not difference <= GOLDEN_TOLERANCE:
            raise ArtifactError(
                f"{card.task}: a golden prompt's logits are off by {difference:.2f} on average "
                f"(at most {GOLDEN_TOLERANCE} is rounding): these are not the weights that were evaluated"
            )


@torch.inference_mode()
def _next_logits(
    base: Base, bank: AdapterBank, slot: int, spec: TaskSpec, job: str, tokens: Sequence[int] | None = None
) -> torch.Tensor:
    """``[V]`` fp32, or ``[K]`` of these tokens."""
    renderer = Renderer.of(base.tokenizer)
    ids = [*renderer.job_ids(job), *renderer.suffix_ids(spec.prompt.suffix)]
    model = bank.model(base.model, slot)
    batch = Batch.of([len(ids)], device=model.device)
    adapters = bank.select([slot], batch, dtype=model.dtype)
    h = model.run(
        model.embed(torch.tensor(ids, device=model.device)),
        batch,
        (0, model.config.layers),
        adapters=adapters,
        keep=batch.last,
    )
    rows = None if tokens is None else torch.tensor(tokens, dtype=torch.int64, device=model.device)
    return model.logits(model.norm(h), rows)[0].cpu()
