"""The table: results with their test rows answered, beside targets, published figures and what is missing.

Reads results and nothing else; never trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.bench import Report
from benchmarks.judging.configuration import METHODS
from benchmarks.judging.datasets import DATA_SETS, absent
from benchmarks.judging.plan import ORDER, missing
from benchmarks.judging.run import Result, Workplace

HOW_TO_FILL = "`python -m benchmarks.quality plan --minutes 60 --go` runs as much of what is missing as fits."
COLUMNS = ("task", "measure", "target", "method", "rows", "value", "95 %", "minutes")


def read_results(folder: Path) -> list[Result]:
    """All results of a folder, oldest first."""
    return sorted((Result.read(file) for file in folder.glob("*.json")), key=lambda result: result.when)


def table(place: Workplace, *, smoke: bool = False) -> Report:
    """One row per result with test rows, by data set; then what is published, skipped and missing."""
    report = Report("quality", "Quality on public test sets", smoke=smoke)
    tested = [result for result in read_results(place.results) if result.test is not None]
    tested.sort(key=_order)
    report.rows = [_row(result) for result in tested]
    if not report.rows:
        report.rows = [dict.fromkeys(COLUMNS)]
    for name, dataset in DATA_SETS.items():
        reason = absent(place.data, name)
        if reason:
            report.notes.append(f"skipped {name}: {reason}")
        elif dataset.published:
            report.notes.append(f"published, {name}, {dataset.metric}: {dataset.published}")
    wanted = [
        " ".join(
            (c.task, c.method, *(() if c.method == "zero_shot" else (c.rows,)), *_layers(c.plain()))
        ).replace("_", " ")
        for c in missing(place)
    ]
    if wanted:
        report.notes += [f"missing: {'; '.join(wanted)}", HOW_TO_FILL]
    return report


def markdown(report: Report) -> str:
    """The report as a table of a README."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in report.rows:
        shown = ["" if row[column] is None else _figure(row[column]) for column in COLUMNS]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in report.notes)])


def _row(result: Result) -> dict[str, Any]:
    dataset = DATA_SETS[result.configuration["task"]]
    assert result.test is not None
    method = result.configuration["method"].replace("_", "-")
    trained = result.configuration.get("train")
    if trained:
        adapter = result.configuration["adapter"]
        rank = f" r{adapter['rank']}" if "rank" in adapter else ""
        method += f"{rank}{''.join(_layers(result.configuration))}, {trained['epochs']} epochs"
    rows = "-"
    if result.train_rows:
        whole = result.train_rows == result.available_rows
        rows = f"{result.train_rows}" if whole else f"{result.train_rows} of {result.available_rows}"
    values = (
        dataset.name,
        dataset.metric,
        dataset.target,
        method,
        rows,
        round(result.test.value, 3),
        f"{result.test.low:.3f}-{result.test.high:.3f}",
        round(result.seconds / 60, 1),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _layers(plain: dict[str, Any]) -> tuple[str, ...]:
    if "adapter" not in plain:
        return ()
    first, last = plain["adapter"]["layers"]
    return (f" k={first}" if last == 18 else f" layers {first}-{last - 1}",)


def _order(result: Result) -> tuple[Any, ...]:
    plain = result.configuration
    return (
        ORDER.index(plain["task"]),
        METHODS[::-1].index(plain["method"]),
        result.train_rows,
        result.test.value if result.test else 0,
    )


def _figure(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
