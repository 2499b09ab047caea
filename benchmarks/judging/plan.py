"""What the table still wants, in order of worth per minute, and how long it would take.

Times are estimates: tokens counted with the base's own tokenizer over tokens and rows per second, as
measured by results of as many threads, else the constants here. Knows nothing of how anything is run.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.judging.configuration import FEW_SHOT, TRAINED, Configuration, recommended, with_settings
from benchmarks.judging.datasets import DATA_SETS, absent
from benchmarks.judging.run import WATCHED, Result, Workplace, training_rows
from fleet.engine.prompt import Renderer

TOKENS_PER_SECOND = 400.0
"""Training, one thread, LoRA on layers 6-17."""
LABELS_PER_SECOND, RECORDS_PER_SECOND = 25.0, 4.0
"""Answered rows, one thread."""

ORDER = ("tweet_emotion", "wnut17", "tweet_irony", "sst2", "banking77", "snips", "moderation_10_languages")
"""Data sets by what a minute of training says."""


def planned() -> list[Configuration]:
    """The rows of the table, those first that say most for their time."""
    trained = [recommended(task) for task in ORDER]
    few = [recommended(task, rows) for rows in FEW_SHOT for task in ORDER]
    classification = [task for task in ORDER if DATA_SETS[task].classification]
    tfidf = [recommended(task, rows, "tfidf") for rows in ("full", *FEW_SHOT) for task in classification]
    zero_shot = [recommended(task, method="zero_shot") for task in ORDER]
    trunks = [with_settings(trained[0], [f"adapter.layers=[{k},18]"]) for k in (0, 4, 9)]
    return [*tfidf, *trained, *trunks, *few, *zero_shot, recommended(ORDER[0], method="full")]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would take, in seconds, with the tokens of all its epochs."""

    tokens: int
    training: float
    answering: float

    @property
    def minutes(self) -> float:
        return (self.training + self.answering) / 60


class Estimator:
    """Estimates for one workplace; ``results`` correct the rates."""

    def __init__(self, place: Workplace, results: Sequence[Result], threads: int) -> None:
        self._place = place
        self._renderer = Renderer.of(place.base.tokenizer)
        measured = [r for r in results if r.threads == threads]
        rates = [r.tokens / r.seconds for r in measured if r.tokens > 20_000]
        self.tokens_per_second = statistics.median(rates) if rates else TOKENS_PER_SECOND * threads

    def estimate(self, configuration: Configuration) -> Estimate:
        """Answering is all validation and test rows once, and the watched ones after every epoch."""
        rows = self._place.rows(configuration.task)
        if configuration.method == "tfidf":
            return Estimate(0, len(training_rows(configuration, rows)) / 200, 0)
        label = configuration.dataset.classification
        rate = LABELS_PER_SECOND if label else RECORDS_PER_SECOND
        answered = len(rows.validation) + len(rows.test)
        if configuration.method not in TRAINED:
            return Estimate(0, 0, answered / rate)
        train = training_rows(configuration, rows)
        spec = configuration.task_spec(rows)
        epochs = configuration.train.epochs
        tokens = epochs * sum(len(self._renderer.row(spec, example).ids) for example in train)
        watched = epochs * min(WATCHED, len(train), len(rows.validation))
        return Estimate(tokens, tokens / self.tokens_per_second + watched / rate, answered / rate)

    def within(self, configuration: Configuration, minutes: float) -> tuple[Configuration, str]:
        """A configuration whose training fits, and what was cut: epochs down to two, then rows.

        Uses the constant rate, not what this machine has measured, so that the same command is the same
        run tomorrow. Rows are cut to two figures.
        """
        if configuration.method not in TRAINED:
            return configuration, ""
        cut: list[str] = []
        room = minutes * 60 * TOKENS_PER_SECOND

        def tokens() -> int:
            return self.estimate(configuration).tokens

        epochs = configuration.train.epochs
        while tokens() > room and configuration.train.epochs > 2:
            fewer = configuration.train.epochs - 1
            configuration = replace(
                configuration, train=replace(configuration.train, epochs=fewer, patience=fewer)
            )
        if configuration.train.epochs < epochs:
            cut.append(f"epochs {epochs} -> {configuration.train.epochs}")
        whole = len(training_rows(configuration, self._place.rows(configuration.task)))
        if (needed := tokens()) > room:
            fits = int(whole * room / needed)
            fits = max(1, int(float(f"{fits:.2g}")) if float(f"{fits:.2g}") <= fits else fits * 9 // 10)
            configuration = replace(configuration, rows=str(fits))
            cut.append(f"rows {whole} -> {fits}")
        return configuration, ", ".join(cut)


def missing(place: Workplace, *, test: bool = True) -> Iterator[Configuration]:
    """Planned runs that have no result, or no test rows answered; data sets that are absent left out."""
    for configuration in planned():
        if absent(place.data, configuration.task):
            continue
        found = place.result(configuration)
        if found is None or (test and found.test is None):
            yield configuration
