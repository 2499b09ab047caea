"""Decoding follows the path that training took: canonical targets of starter rows, real tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.cli.starter import starter_folder, starter_tasks
from fleet.data.rows import load_task_rows
from fleet.engine.base import Base, load_base
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.prompt import Renderer, render_job, render_target
from fleet.manifest import load_manifest
from fleet.recipe import examples, task_spec

EVERY = 11
"""One row in so many: the whole set takes minutes."""


@pytest.fixture(scope="module")
def base(real_base_folder: Path) -> Base:
    return load_base(real_base_folder)


@pytest.mark.parametrize("task", starter_tasks())
def test_every_target_is_a_path_that_its_constraint_allows(base: Base, task: str) -> None:
    root = starter_folder()
    manifest = load_manifest(root / "tasks" / task / "task.yaml", root)
    spec = task_spec(manifest)
    renderer, compiler = Renderer(base.tokenizer), ConstraintCompiler(base.tokenizer)
    rows = load_task_rows(root, manifest)
    for example in examples([*rows.train, *rows.eval])[::EVERY]:
        constraint = compiler.start(spec.constraint, render_job(spec.prompt, example.fields))
        target = renderer.target_ids(render_target(spec.constraint, example.output))
        walked = 0
        while not constraint.done:
            forced = constraint.forced()
            assert forced == target[walked : walked + len(forced)], example
            walked += len(forced)
            if constraint.done:
                break
            constraint.advance(target[walked])
            walked += 1
        assert constraint.value() == example.output
        assert len(target) <= spec.max_output_tokens
