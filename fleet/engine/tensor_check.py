"""Tensors that came from outside, held against those that are wanted. Knows nothing of what they do."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fleet.errors import ArtifactError


def check_tensors(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ``ArtifactError`` unless these are the wanted names and shapes, and every value is finite."""
    if odd := sorted(wanted.keys() ^ tensors.keys()):
        raise ArtifactError(f"the adapter's tensors are not those of its config; first: {odd[0]}")
    for name, shape in wanted.items():
        got = tuple(tensors[name].shape)
        if got != shape:
            raise ArtifactError(f"adapter tensor {name} has shape {got}, the base needs {shape}")
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ArtifactError(f"adapter tensor {name} holds NaN or infinity")
