"""Made-up rows in the data sets' own format and a tiny random base: shows that the code path works."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fleet.engine.testing import write_tiny_base

EMOTIONS = (("I am so happy today", "joy"), ("This makes me furious", "anger"))
ORDERS = (
    ("play Jazz FM on Radio", {"intent": "PlayMusic", "slots": {"playlist": "Jazz FM", "service": "Radio"}}),
    ("weather in Oslo", {"intent": "GetWeather", "slots": {"city": "Oslo"}}),
)
SETTINGS = ("--set", "train.epochs=1", "adapter.layers=[2,6]", "adapter.rank=2")
COMMANDS: Sequence[Sequence[str]] = (
    ("run", "--task", "tweet_emotion", "--rows", "full", "--method", "tfidf", "--test"),
    ("run", "--task", "tweet_emotion", "--method", "zero_shot", "--set", "adapter.layers=[2,6]", "--test"),
    ("run", "--task", "tweet_emotion", "--rows", "8", *SETTINGS),
    ("run", "--task", "tweet_emotion", "--rows", "8", *SETTINGS, "--test"),
    ("run", "--task", "snips", *SETTINGS, "--minutes", "0.01", "--test"),
    ("run", "--task", "banking77"),
    ("table",),
)


def write(folder: Path) -> None:
    """A base and two data sets below ``folder``."""
    write_tiny_base(folder / "base")
    emotions = [{"text": f"{text} {i}", "label": label} for i in range(8) for text, label in EMOTIONS]
    orders = [{"text": f"{text} {i}", **record} for i in range(8) for text, record in ORDERS]
    for split in ("train", "val", "test"):
        _write(folder / "data" / "tweet_emotion" / f"{split}.jsonl", emotions)
        _write(folder / "data" / "snips" / f"{split}.jsonl", orders)


def places(folder: Path) -> list[str]:
    """The options that keep everything below ``folder``."""
    names = {"data": "data", "results": "results/quality", "scratch": "scratch", "base": "base"}
    return [part for option, name in names.items() for part in (f"--{option}", str(folder / name))]


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
