"""Whether there are enough rows, of every label, and what difference the evaluation rows can show.

Knows nothing of what the rows say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from statistics import NormalDist
from typing import Literal

from fleet.data.rows import TaskRows
from fleet.errors import Fault
from fleet.manifest import Manifest

__all__ = ["balance_faults", "detectable_difference", "paired_rows_needed"]

IMBALANCE = 5.0
"""Most common over least common label at which we warn."""

DISCORDANT = 0.10
"""Assumed share of rows on which two versions of one expert differ in being right."""


def balance_faults(manifest: Manifest, rows: TaskRows, min_effect: float = 0.05) -> Iterator[Fault]:
    """Faults of the rows' number and labels; ``min_effect`` is the policy's smallest difference."""
    here = f"{manifest.folder}/task.yaml"
    for name, split in (("train", rows.train), ("eval", rows.eval)):
        if not split:
            field = f"data.{name}"
            rule = f"there are no {name} rows: write some"
            yield Fault("empty-split", rule, here, manifest.line_of(field), field)
    if manifest.kind == "classification":
        yield from _label_faults(manifest, rows, here)
    if rows.eval and manifest.metric != "perplexity":
        seen = detectable_difference(len(rows.eval))
        if seen > min_effect:
            message = (
                f"the {len(rows.eval)} eval rows can show a difference of {100 * seen:.1f} points; policy "
                f"asks for {100 * min_effect:g}: about {paired_rows_needed(min_effect)} rows would do"
            )
            yield Fault(
                "eval-too-small",
                message,
                here,
                manifest.line_of("data.eval"),
                "data.eval",
                severity="warning",
            )


def _label_faults(manifest: Manifest, rows: TaskRows, here: str) -> Iterator[Fault]:
    labels = manifest.labels or []
    for name, split in (("train", rows.train), ("eval", rows.eval)):
        counts = Counter(row.output for row in split)
        missing = [label for label in labels if not counts[label]]
        if split and missing:
            severe = name == "train"
            advice = "no expert can learn them" if severe else "they are not measured"
            message = f"no {name} row has these labels, so {advice}: write rows or drop the labels"
            field = f"data.{name}"
            severity: Literal["error", "warning"] = "error" if severe else "warning"
            line, value = manifest.line_of(field), ", ".join(missing)
            yield Fault("label-without-rows", message, here, line, field, value, severity)
        present = [(counts[label], label) for label in labels if counts[label]]
        if len(present) > 1 and max(present)[0] > IMBALANCE * min(present)[0]:
            (least, rare), (most, common) = min(present), max(present)
            message = f"{common} has {most} {name} rows and {rare} {least}: write more of the rare label"
            yield Fault(
                "label-imbalance",
                message,
                here,
                manifest.line_of(f"data.{name}"),
                f"data.{name}",
                value=rare,
                severity="warning",
            )


def paired_rows_needed(difference: float, discordant: float = DISCORDANT, *, alpha: float = 0.05,
                       power: float = 0.8) -> int:  # fmt: skip
    """Rows on which a paired test of two proportions sees ``difference`` (two-sided).

    Connor 1987, "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43:207-211: n = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 / d^2, with psi the share of
    discordant rows, which cannot be smaller than the difference d. Macro-F1 and the like are treated
    as if they were accuracy. Raises ValueError unless 0 < difference <= 1.
    """
    if not 0 < difference <= 1:
        raise ValueError(f"a difference lies in (0, 1], not {difference}")
    psi = max(discordant, difference)
    normal = NormalDist()
    reach = normal.inv_cdf(1 - alpha / 2) * math.sqrt(psi)
    reach += normal.inv_cdf(power) * math.sqrt(psi - difference**2)
    return math.ceil(reach**2 / difference**2)


def detectable_difference(rows: int, discordant: float = DISCORDANT) -> float:
    """Smallest difference, in [0, 1], that a paired test on ``rows`` rows sees at 80 % power; 1.0 if none."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if paired_rows_needed(middle, discordant) <= rows else (middle, high)
    return high
