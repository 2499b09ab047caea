"""Faults for tasks that the router could not tell apart, before anything is trained. Loads no base.

Letters alone judge here, within seconds; with a router's scores, whoever has them, it is as the router
would. Knows nothing of how either is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fleet.data.duplicates import normal
from fleet.data.rows import TaskRows
from fleet.errors import Fault
from fleet.manifest import Manifest
from fleet.routing.collisions import Collision, Held, find_collisions
from fleet.routing.content import words
from fleet.yaml_lines import shorten

__all__ = ["PAIR_RULES", "apart_faults", "collision_faults", "foreign_faults"]

PAIR_RULES = ("tasks-alike", "rows-in-two-tasks")
"""Rules about two tasks: the file is the first one's, the value the other task."""


def apart_faults(fleet: Mapping[str, tuple[Manifest, TaskRows]]) -> list[Fault]:
    """By the letters of all training inputs."""
    texts = {name: [normal(row) for row in rows.train] for name, (_, rows) in fleet.items()}
    places = {name: [row.place for row in rows.train] for name, (_, rows) in fleet.items()}
    return collision_faults({name: each for name, (each, _) in fleet.items()}, texts, places)


def foreign_faults(
    jobs: Iterable[Mapping[str, str]], name: str, fleet: Mapping[str, tuple[Manifest, TaskRows]]
) -> list[Fault]:
    """A warning for each job of nobody, of the file ``name``, that is a training row of a task."""
    places = {words(normal(row)): row.place for _, rows in fleet.values() for row in rows.train}
    return [
        Fault(
            "row-of-a-task",
            f"{place} says the same: the router cannot learn it and leave it alone, so take one of them out",
            name,
            value=shorten(" ".join(fields.values())),
            severity="warning",
        )
        for fields in jobs
        if (place := places.get(words(" ".join(fields.values()))))
    ]


def collision_faults(
    manifests: Mapping[str, Manifest],
    texts: Mapping[str, Sequence[str]],
    places: Mapping[str, Sequence[str]],
    held: Mapping[str, Held] | None = None,
    judge: str = "letters",
) -> list[Fault]:
    """A warning for each pair; ``held`` are the scores of a ``judge`` other than the letters."""
    found = []
    for pair in find_collisions(texts, held):
        here = f"{manifests[pair.first].folder}/task.yaml"
        rows = "; ".join(
            f"{places[pair.first][a]} {shorten(texts[pair.first][a])} and "
            f"{places[pair.second][b]} {shorten(texts[pair.second][b])}"
            for a, b in pair.rows
        )
        rule = PAIR_RULES[0] if pair.alike else PAIR_RULES[1]
        message = f"{_said_of(pair, judge)}. Rows that collide: {rows or 'none alike by their letters'}"
        found.append(Fault(rule, message, here, value=pair.second, severity="warning"))
    return found


def _said_of(pair: Collision, judge: str) -> str:
    both = "1 training row" if pair.twins == 1 else f"{pair.twins} training rows"
    if not pair.alike:
        return (
            f"{pair.first} and {pair.second} share {both}, so the router is wrong about one of them: "
            "give each row to one task"
        )
    shared = f", and they share {both}" if pair.twins else ""
    return (
        f"the router could not tell {pair.first} and {pair.second} apart by their {judge}: of held-out "
        f"rows {pair.there:.0%} of the first are as near to the second, {pair.back:.0%} the other way"
        f"{shared}: name the task on the job, or merge the tasks"
    )
