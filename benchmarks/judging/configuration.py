"""What one run is: data set, rows, method, adapter, training, suffix; and the key that names its result.

The recommended ones are here, with what the sweeps of DECISIONS.md say about them. Knows nothing of
models, files or how long anything takes.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from benchmarks.judging.datasets import DATA_SETS, DataSet, Rows
from fleet.engine.specs import FullSpec, LoraSpec, PromptSpec, TaskSpec, TrainSpec
from fleet.manifest import LEARNING_RATES

Method = Literal["lora", "full", "zero_shot", "tfidf"]
METHODS: tuple[Method, ...] = get_args(Method)
TRAINED: tuple[Method, ...] = ("lora", "full")
FULL = "full"
FEW_SHOT = ("32", "128")


@dataclass(frozen=True, slots=True)
class Configuration:
    """One run. ``rows`` is ``full`` or how many training rows are drawn by ``train.seed``."""

    task: str
    rows: str = FULL
    method: Method = "lora"
    adapter: LoraSpec | FullSpec = field(default_factory=LoraSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    suffix: str = ""

    def __post_init__(self) -> None:
        if self.task not in DATA_SETS:
            raise ValueError(f"no data set called {self.task!r}; there are: {', '.join(DATA_SETS)}")
        if self.rows != FULL and not (self.rows.isdigit() and int(self.rows) > 0):
            raise ValueError(f"rows must be {FULL!r} or a number above 0 (got {self.rows!r})")
        if self.method == "tfidf" and not self.dataset.classification:
            raise ValueError(f"TF-IDF answers with labels; {self.task} wants records")

    @property
    def dataset(self) -> DataSet:
        return DATA_SETS[self.task]

    def plain(self) -> dict[str, Any]:
        """Everything that the method depends on, as JSON values, the same again after a round trip."""
        kept: dict[str, Any] = {"task": self.task, "method": self.method}
        if self.method != "zero_shot":
            kept |= {"rows": self.rows, "seed": self.train.seed}
        if self.method != "tfidf":
            kept["suffix"] = self.suffix
        if self.method in TRAINED:
            kept |= {"adapter": asdict(self.adapter), "train": asdict(self.train)}
        plain: dict[str, Any] = json.loads(json.dumps(kept))
        return plain

    def key(self, data: str, base: str) -> str:
        """Names the result: readable in front, then a hash over all of it, the data and the base."""
        sealed = [self.plain(), data, "" if self.method == "tfidf" else base]
        hashed = hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()[:12]
        rows = () if self.method == "zero_shot" else (self.rows,)
        return "-".join((self.task, self.method, *rows, hashed))

    def task_spec(self, rows: Rows) -> TaskSpec:
        """What the engine is told. Validation judges by the data set's own measure, not by ``metric``."""
        return TaskSpec(
            name=self.task,
            prompt=PromptSpec(suffix=self.suffix),
            constraint=rows.constraint,
            metric="accuracy" if self.dataset.classification else "exact_match",
            adapter=self.adapter,
            train=self.train,
            max_output_tokens=self.dataset.max_output_tokens,
        )


def recommended(task: str, rows: str = FULL, method: Method = "lora") -> Configuration:
    """The configuration of the table's row. Few rows take small steps and many epochs."""
    if task not in DATA_SETS:
        raise ValueError(f"no data set called {task!r}; there are: {', '.join(DATA_SETS)}")
    if rows == FULL or int(rows) > max(map(int, FEW_SHOT)):
        train = _FULL_TRAINING[task]
    else:
        train = TrainSpec(epochs=20 if int(rows) <= 32 else 12, batch_tokens=256, patience=20)
    if method == "full":
        train = replace(train, learning_rate=LEARNING_RATES["full"])
    return Configuration(
        task, rows, method, FullSpec() if method == "full" else LoraSpec(), train, DATA_SETS[task].suffix
    )


def with_settings(configuration: Configuration, settings: Sequence[str]) -> Configuration:
    """``NAME=VALUE`` applied in order: ``adapter.rank=8``, ``adapter.layers=[0,18]``, ``train.epochs=3``.

    The method's own name says ``adapter`` too: ``lora.rank``. Raises ``ValueError`` for what does not exist.
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        part, _, inner = name.partition(".")
        part = "adapter" if part == configuration.method else part
        if not equals:
            raise ValueError(f"a setting is NAME=VALUE (got {setting!r})")
        if name == "suffix":
            configuration = replace(configuration, suffix=text.replace("\\n", "\n"))
            continue
        known = [
            f"{p}.{each.name}" for p in ("adapter", "train") for each in fields(getattr(configuration, p))
        ]
        if f"{part}.{inner}" not in known:
            raise ValueError(f"no setting called {name!r}; there are: {', '.join([*known, 'suffix'])}")
        value = ast.literal_eval(text)
        value = tuple(value) if isinstance(value, list) else value
        changed = replace(getattr(configuration, part), **{inner: value})
        configuration = replace(configuration, **{part: changed})
    return configuration


def _few_epochs(epochs: int, rate: float, batch_tokens: int = 512) -> TrainSpec:
    """The whole schedule is run, and the best epoch kept."""
    return TrainSpec(epochs=epochs, learning_rate=rate, batch_tokens=batch_tokens, patience=epochs)


_FULL_TRAINING: dict[str, TrainSpec] = {
    "tweet_emotion": _few_epochs(3, 3e-4),
    "tweet_irony": _few_epochs(3, 3e-4),
    "sst2": _few_epochs(2, 3e-4),
    "banking77": _few_epochs(4, 5e-4),
    "snips": _few_epochs(2, 3e-4),
    "wnut17": _few_epochs(3, 3e-4),
    "moderation_10_languages": _few_epochs(1, 3e-4),
}
