"""Everything that can be wrong with rows, for one task and across tasks. Reads no files.

An error makes rows unusable or the reported figure dishonest; a warning makes the expert worse than it
need be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from fleet.data.balance import balance_faults
from fleet.data.duplicates import exact_pairs, near_pairs, normal
from fleet.data.overlap import shared_row_faults
from fleet.data.rows import Row, TaskRows
from fleet.data.validity import row_faults
from fleet.errors import Fault
from fleet.manifest import Manifest

__all__ = ["lint_fleet", "lint_task"]


def lint_task(
    manifest: Manifest,
    rows: TaskRows,
    *,
    count_tokens: Callable[[str], int] | None = None,
    min_effect: float = 0.05,
) -> list[Fault]:
    """Every fault of one task's rows; ``min_effect`` is the policy's smallest difference worth seeing."""
    both = [*rows.train, *rows.eval]
    return [
        *row_faults(manifest, both, count_tokens),
        *_repeats(manifest, rows),
        *balance_faults(manifest, rows, min_effect),
    ]


def lint_fleet(fleet: Mapping[str, tuple[Manifest, TaskRows]]) -> list[Fault]:
    """Every fault between tasks."""
    return list(shared_row_faults(fleet))


def _repeats(manifest: Manifest, rows: TaskRows) -> Iterator[Fault]:
    both = [*rows.train, *rows.eval]
    texts = [normal(row) for row in both]
    first_eval = len(rows.train)
    for pair in exact_pairs(texts):
        first, second = both[pair.first], both[pair.second]
        if pair.first < first_eval <= pair.second:
            yield _fault(
                "eval-row-in-train", second, f"is also a training row ({first.place}): drop one", "error"
            )
        elif first.output == second.output:
            yield _fault("duplicate-row", second, f"repeats {first.place}: drop one", "warning")
        if first.output != second.output and manifest.kind != "generation":
            message = f"has the input of {first.place} and another answer: decide for one"
            yield _fault("contradicting-rows", second, message, "warning")
    for pair in near_pairs(texts):
        first, second = both[pair.first], both[pair.second]
        across = pair.first < first_eval <= pair.second
        kind, rule = ("training row ", "near-row-in-train") if across else ("", "near-duplicate-row")
        message = f"shares {pair.similarity:.0%} of its 3-grams with {kind}{first.place}: rewrite or drop one"
        yield _fault(rule, second, message, "warning")


def _fault(rule: str, row: Row, message: str, severity: str) -> Fault:
    return Fault(rule, message, row.file, row.line, severity="error" if severity == "error" else "warning")
