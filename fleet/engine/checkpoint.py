"""A training's resumable state on disk: safetensors and JSON, published by rename.

A task's checkpoint is one folder per save and a ``latest`` file that names it, replaced in one step:
whoever reads sees the old state or the new one, never half of one. The data order and the matrices'
first values follow from the seed, so the random state is the seed and the position.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fleet.errors import TrainingError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class TaskState:
    """Where one task's training stands."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    """Optimiser steps already taken in this epoch."""
    tokens: int = 0
    seconds: float = 0.0
    stale: int = 0
    """Validations in a row without improvement."""
    finished: bool = False
    best: tuple[float, float] | None = None
    """Metric and loss of the best validation."""
    best_tensors: dict[str, Tensor] | None = None
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def curve(self, name: str, value: float) -> None:
        self.curves.setdefault(name, []).append((self.step, value))

    def latest(self, name: str) -> float:
        return self.curves[name][-1][1] if name in self.curves else math.nan


def save_checkpoint(
    folder: Path, tasks: Mapping[str, tuple[TaskState, Mapping[str, Tensor], torch.optim.Optimizer]]
) -> None:
    """Write every task's state; the previous one of each is removed afterwards."""
    for name, (state, parameters, optimiser) in tasks.items():
        home = folder / name
        latest = home / "latest"
        target = home / f"step-{state.step}-{state.epoch}-{state.position}"
        if latest.exists() and latest.read_text() == target.name:
            continue
        home.mkdir(parents=True, exist_ok=True)
        partial = home / f".{target.name}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        # No copies where none are needed: a full adapter has half a gigabyte of moments.
        tensors = {f"parameter/{key}": t.detach().contiguous() for key, t in parameters.items()}
        moments = optimiser.state_dict()["state"]
        for index, key in enumerate(parameters):
            for what, tensor in moments.get(index, {}).items():
                tensors[f"{what}/{key}"] = tensor.detach().contiguous()
        for key, tensor in (state.best_tensors or {}).items():
            tensors[f"best/{key}"] = tensor
        save_file(tensors, partial / "tensors.safetensors")
        plain = {
            "step": state.step,
            "epoch": state.epoch,
            "position": state.position,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "stale": state.stale,
            "finished": state.finished,
            "best": state.best,
            "curves": state.curves,
        }
        (partial / "state.json").write_text(json.dumps(plain))
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        pointer = home / f".latest.{os.getpid()}"
        pointer.write_text(target.name)
        pointer.replace(latest)
        for old in home.iterdir():
            if old.is_dir() and old != target:
                shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path, name: str, parameters: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> TaskState | None:
    """Restore one task into its matrices and optimiser; None when there is nothing to resume.

    Raises ``TrainingError`` for a checkpoint that does not fit, naming its folder.
    """
    latest = folder / name / "latest"
    if not latest.exists():
        return None
    home = folder / name / latest.read_text()
    if not home.is_dir():
        # A worker believed dead wrote beside its replacement, and the one's clean-up met the other's pointer.
        log.warning("the checkpoint %s of %s is gone; the task starts afresh", home.name, name)
        return None
    try:
        plain: dict[str, Any] = json.loads((home / "state.json").read_text())
        tensors = load_file(home / "tensors.safetensors")
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(tensors[f"parameter/{key}"])
        saved = optimiser.state_dict()
        saved["state"] = {
            index: {what: tensors[f"{what}/{key}"] for what in ("step", "exp_avg", "exp_avg_sq")}
            for index, key in enumerate(parameters)
            if f"step/{key}" in tensors
        }
        optimiser.load_state_dict(saved)
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint of {name} in {home.parent.name}/{home.name} cannot be resumed ({error}); "
            "delete that folder to start the task afresh"
        ) from error
    best = {key.removeprefix("best/"): t for key, t in tensors.items() if key.startswith("best/")}
    return TaskState(
        step=plain["step"],
        epoch=plain["epoch"],
        position=plain["position"],
        tokens=plain["tokens"],
        seconds=plain["seconds"],
        stale=plain["stale"],
        finished=plain["finished"],
        best=None if plain["best"] is None else (plain["best"][0], plain["best"][1]),
        best_tensors=best or None,
        curves={key: [(int(s), float(v)) for s, v in points] for key, points in plain["curves"].items()},
    )
