"""What 8-bit products and 4-bit weights cost in quality and gain in speed, on a trained fleet's champions.

Every champion answers its evaluation rows with each of ``fleet route --weights``, twice each in turn after a
first time that is not measured. Free text is judged by perplexity; for int4 with all tokens, the prompt's
too, and the head computed from 4 bits: more than serving does, so a bound. Values have 95 % bootstrap
intervals; ``same`` is the share of equal answers. ``--rows`` evaluation rows of a task at most.

    python -m benchmarks.weights [--root PROJECT] [--rows N] [--task NAME]      after make run
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Report, interleave, median_seconds
from fleet.data.rows import load_task_rows
from fleet.engine.adapters import AdapterBank
from fleet.engine.base import Base
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.decode import Completion
from fleet.engine.evaluate import Measured, answer_examples, measure, measure_perplexity, row_losses
from fleet.engine.expert import check_fits, read_expert
from fleet.engine.specs import WEIGHTS, Example, TaskSpec, Weights
from fleet.engine.weights import ServedModels
from fleet.errors import FleetError
from fleet.manifest import Manifest
from fleet.project import Project
from fleet.recipe import examples, task_spec
from fleet.registry.store import ROUTER
from fleet.stores import open_base, open_registry


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument(
        "--rows", type=int, default=60, help="evaluation rows of a task, at most (default 60)"
    )
    parser.add_argument("--task", action="append", help="only this one; may be given again")
    arguments = parser.parse_args(argv)
    report = Report("weights", "weights that serve, on the champions' evaluation rows")
    try:
        project = Project.find(arguments.root)
        registry = open_registry(project)
        champions = {task: info for task, info in registry.champions().items() if task != ROUTER}
    except FleetError as error:
        print(f"weights: skipped: {error}")
        return
    if not champions:
        print("weights: skipped: the fleet has no champions yet (make run)")
        return
    base = open_base(project)
    if unknown := set(arguments.task or ()) - champions.keys():
        parser.error(
            f"no champion for {', '.join(sorted(unknown))}; there are: {', '.join(sorted(champions))}"
        )
    depth = project.config.trunk_layers
    kinds = {weights: ServedModels.of(base.model, weights, depth) for weights in WEIGHTS}
    for task, info in sorted(champions.items()):
        if arguments.task and task not in arguments.task:
            continue
        with tempfile.TemporaryDirectory() as place:
            adapter, card = read_expert(registry.fetch(info, Path(place)), digest=info.digest)
        spec = task_spec(Manifest.model_validate(dict(card.manifest)))
        check_fits(base, spec, card)
        rows = examples(load_task_rows(project.root, project.tasks()[task]).eval)[: arguments.rows]
        report.rows += compared(base, kinds, AdapterBank.alone(base.model, adapter), spec, rows)
    exact = {row["task"]: row for row in report.rows if row["weights"] == "bf16"}
    for row in report.rows:
        if row["weights"] != "bf16":
            ratio = row["jobs/s"] / exact[row["task"]]["jobs/s"]
            report.ratios[f"{row['task']}: jobs/s, {row['weights']} to bf16"] = ratio
    report.finish()


def compared(
    base: Base,
    kinds: Mapping[Weights, ServedModels],
    bank: AdapterBank,
    spec: TaskSpec,
    rows: Sequence[Example],
) -> list[dict[str, Any]]:
    """One table row for each kind of weights."""
    compiler = ConstraintCompiler(base.tokenizer)

    def answer(models: ServedModels) -> list[Completion]:
        read = replace(base, model=models.reader)
        return answer_examples(read, bank, 0, spec, rows, compiler, decoder=models.decoder)

    runs = interleave({weights: partial(answer, models) for weights, models in kinds.items()}, 2)
    given = {name: [completion.value for completion in run[0].result] for name, run in runs.items()}
    table = []
    for weights, models in kinds.items():
        values = given[weights]
        measured = scored(replace(base, model=models.decoder or models.reader), bank, spec, rows, values)
        same = sum(a == b for a, b in zip(given["bf16"], values, strict=True)) / len(rows)
        table.append(
            {
                "task": spec.name,
                "weights": weights,
                "metric": spec.metric,
                "value": measured.value,
                "low": measured.low,
                "high": measured.high,
                "same": None if weights == "bf16" else same,
                "jobs/s": len(rows) / median_seconds(runs[weights]),
            }
        )
    return table


def scored(
    base: Base, bank: AdapterBank, spec: TaskSpec, rows: Sequence[Example], given: Sequence[Any]
) -> Measured:
    if spec.metric == "perplexity":
        return measure_perplexity(*row_losses(base, bank, 0, spec, rows))
    return measure(spec.metric, [row.output for row in rows], given)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
