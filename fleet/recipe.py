"""The small translation: manifests and rows, as people write them, to what the engine is told."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.data.rows import Row
from fleet.engine.specs import (
    ConstraintSpec,
    Example,
    FullSpec,
    LabelSpec,
    LoraSpec,
    PromptSpec,
    SchemaSpec,
    TaskSpec,
    TextSpec,
    TrainSpec,
)
from fleet.manifest import AdapterSection, Manifest


def task_spec(manifest: Manifest) -> TaskSpec:
    """Everything the engine needs to know of the manifest's task."""
    training, serving = manifest.training, manifest.serving
    return TaskSpec(
        name=manifest.task,
        prompt=PromptSpec(tuple(manifest.input), manifest.suffix),
        constraint=_constraint(manifest),
        metric=manifest.metric,
        adapter=_adapter(manifest.adapter),
        train=TrainSpec(
            epochs=training.epochs,
            learning_rate=manifest.learning_rate,
            batch_tokens=training.batch_tokens,
            seed=training.seed,
            patience=training.patience,
        ),
        max_input_tokens=serving.max_input_tokens,
        max_output_tokens=serving.max_output_tokens,
    )


def examples(rows: Sequence[Row]) -> list[Example]:
    """Rows as the engine trains on them, in their order."""
    return [Example(row.fields, row.output) for row in rows]


def _adapter(section: AdapterSection) -> LoraSpec | FullSpec:
    if section.method == "full":
        return FullSpec(section.layers)
    # The manifest has filled them in.
    assert section.rank is not None
    assert section.alpha is not None
    return LoraSpec(section.rank, section.alpha, section.layers)


def _constraint(manifest: Manifest) -> ConstraintSpec:
    if manifest.kind == "classification":
        return LabelSpec(tuple(manifest.labels or ()))
    if manifest.kind == "extraction":
        return SchemaSpec(manifest.schema_ or {})
    return TextSpec(manifest.serving.temperature, manifest.serving.top_p, manifest.training.seed)
