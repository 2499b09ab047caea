"""Settings of the TRL contender, by the name that the table shows. Imports nothing of TRL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Of TRL, PEFT and transformers, what may change the speed and nothing else."""

    attention: str = "eager"
    order: str = "random"
    padding_free: bool = True
    autocast: bool = True
    checkpointing: bool = False
    supervised_only: bool = False


SHIPPED = "TRL + PEFT"
PATCHED = "TRL + PEFT, patched"
PEERS: Mapping[str, Settings] = {
    SHIPPED: Settings(),
    PATCHED: Settings(supervised_only=True),
    # Weighed with --settings against what the two above use, the fastest that was found.
    "fused attention": Settings(supervised_only=True, attention="sdpa"),
    "padded": Settings(supervised_only=True, padding_free=False),
    "padded, by length": Settings(supervised_only=True, padding_free=False, order="group_by_length"),
    "no autocast": Settings(supervised_only=True, autocast=False),
    "checkpointing": Settings(supervised_only=True, checkpointing=True),
}
