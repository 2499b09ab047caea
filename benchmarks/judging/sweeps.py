"""Named sweeps: a few configurations that differ in one thing, judged on validation rows alone.

The first of a sweep is what the others are compared with, row by row on the same validation rows. Knows
nothing of test rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.judging.configuration import Configuration, recommended, with_settings
from benchmarks.judging.run import Result
from fleet.registry.policy import compare

SETTINGS: Mapping[str, Sequence[Sequence[str]]] = {
    "k": [[f"adapter.layers=[{k},18]"] for k in (6, 0, 4, 9)],
    "rank": [[f"adapter.rank={rank}", f"adapter.alpha={2 * rank}"] for rank in (16, 4, 8, 32)],
    "learning_rate": [[f"train.learning_rate={rate}"] for rate in (3e-4, 1e-4, 6e-4, 1e-3)],
    "epochs": [[f"train.epochs={n}", f"train.patience={n}"] for n in (3, 1, 2, 5)],
    "batch_tokens": [[f"train.batch_tokens={tokens}"] for tokens in (512, 256, 1024)],
    "suffix": [
        [f"suffix={suffix}"]
        for suffix in (r"\n\nEmotion:", r"\n\nLabel:", r" Emotion:", r"\n\nHow does the writer feel?")
    ],
}
"""On tweet_emotion; what the first of each says is the recommended configuration's own."""


def configurations(name: str, task: str = "tweet_emotion", rows: str = "full") -> list[Configuration]:
    """The sweep's configurations. Raises ``ValueError`` for a name that does not exist."""
    if name not in SETTINGS:
        raise ValueError(f"no sweep called {name!r}; there are: {', '.join(SETTINGS)}")
    return [with_settings(recommended(task, rows), settings) for settings in SETTINGS[name]]


def comparison(name: str, results: Sequence[tuple[Configuration, Result]]) -> list[dict[str, Any]]:
    """One line per result, against the first; ``better`` is the paired difference in the rows' scores."""
    first = results[0][1].validation
    lines = []
    for settings, (configuration, result) in zip(SETTINGS[name], results, strict=False):
        score = result.validation
        paired = compare(score.rows, first.rows)
        lines.append(
            {
                "setting": ", ".join(settings),
                configuration.dataset.metric: f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]",
                "loss": score.loss,
                "better": f"{paired.effect:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}]",
                "p": paired.p,
                "minutes": result.seconds / 60,
            }
        )
    return lines
