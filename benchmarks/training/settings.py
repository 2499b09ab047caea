"""Settings of the TRL contender, by the name that the table shows. Imports nothing of TRL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Of TRL, PEFT and transformers, what may change the speed and nothing else."""

    attention: str = "eager"
    order: str = "group_by_length"
    padding_free: bool = False
    autocast: bool = True
    checkpointing: bool = False
    supervised_only: bool = False


SHIPPED = "TRL + PEFT"
PATCHED = "TRL + PEFT, patched"
PEERS: Mapping[str, Settings] = {
    SHIPPED: Settings(),
    PATCHED: Settings(supervised_only=True),
    # Weighed with --settings: the fastest of these is what the two above use.
    "fused attention": Settings(supervised_only=True, attention="sdpa"),
    "random order": Settings(supervised_only=True, order="random"),
    "padding-free": Settings(supervised_only=True, order="random", padding_free=True),
    "padding-free, fused attention": Settings(
        supervised_only=True, order="random", padding_free=True, attention="sdpa"
    ),
    "no autocast": Settings(supervised_only=True, autocast=False),
    "checkpointing": Settings(supervised_only=True, checkpointing=True),
}
