"""Which jobs are served: kinds of tasks, texts, and how often each expert is asked.

Texts are runs of the starter tasks' English training inputs, cut to 20 to 120 tokens of the base's own
tokenizer; experts are drawn by Zipf's law (the k-th is asked 1/k as often as the first). The same seed
gives the same jobs, and the same texts whatever the number of experts. Knows nothing of engines.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from fleet.engine.prompt import Renderer
from fleet.engine.specs import ConstraintSpec, LabelSpec, SchemaSpec, TextSpec

KINDS = ("classification", "extraction", "text")
SHORTEST, LONGEST = 20, 120
TASK_FOLDER = Path(__file__).parents[2] / "tasks"

LABELS = ("positive", "negative", "neutral", "mixed")
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["order", "booking", "cancellation", "change"]},
        "name": {"type": ["string", "null"], "x-verbatim": True},
        "date": {"type": ["string", "null"], "x-verbatim": True},
        "time": {"type": ["string", "null"], "pattern": "^[0-2][0-9]:[0-5][0-9]$"},
        "people": {"type": ["integer", "null"], "minimum": 1, "maximum": 500},
        "fulfilment": {"enum": ["delivery", "pickup", "on-site", "unknown"]},
    },
    "required": ["kind", "name", "date", "time", "people", "fulfilment"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Work:
    """What all jobs of one kind have in common."""

    suffix: str
    constraint: ConstraintSpec
    limit: int
    """Output tokens at most."""


WORK: Mapping[str, Work] = {
    "classification": Work("\n\nSentiment:", LabelSpec(LABELS), 8),
    "extraction": Work("\n\nRecord:", SchemaSpec(SCHEMA), 64),
    "text": Work("\n\nStory:", TextSpec(), 48),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One job for one expert."""

    number: int
    kind: str
    expert: int
    text: str
    ids: tuple[int, ...]
    """The text's ids, ``<bos>`` first."""
    prompt: tuple[int, ...]
    """``ids`` and the suffix: what an engine without a trunk is given."""


def read_texts(folder: Path = TASK_FOLDER) -> list[str]:
    """English training inputs of the starter tasks, in the order of the files."""
    texts = []
    for file in sorted(folder.glob("*/train.jsonl")):
        for line in file.read_text().splitlines():
            text = json.loads(line)["text"]
            if text.isascii():
                texts.append(text)
    return texts


class Workload:
    """Draws jobs over one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer)
        self._texts = texts
        self._suffixes = {kind: tuple(self._renderer.suffix_ids(work.suffix)) for kind, work in WORK.items()}

    def draw(self, count: int, experts: int, kind: str, seed: int) -> list[Job]:
        """``count`` jobs; in a ``mix`` an expert's number says its kind, for it has one task only."""
        words = random.Random(seed)
        weights = 1 / np.arange(1, experts + 1)
        chosen = np.random.default_rng(seed).choice(experts, size=count, p=weights / weights.sum())
        jobs = []
        for number, expert in enumerate(chosen.tolist()):
            own = KINDS[expert % len(KINDS)] if kind == "mix" else kind
            text = self._text(words)
            ids = tuple(self._renderer.job_ids(text))
            jobs.append(Job(number, own, expert, text, ids, ids + self._suffixes[own]))
        return jobs

    def _text(self, words: random.Random) -> str:
        wanted = words.randint(SHORTEST, LONGEST)
        ids: list[int] = []
        place = words.randrange(len(self._texts))
        while len(ids) < wanted:
            ids += self._renderer.text_ids(self._texts[place % len(self._texts)] + " ")
            place += 1
        return str(self._tokenizer.decode(ids[:wanted]))
