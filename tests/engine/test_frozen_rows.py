"""Frozen rows are kept as far as there is room, computed no further, and are the same either way."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from fleet.engine import frozen_rows
from fleet.engine.frozen_rows import FrozenRows
from fleet.engine.gemma import Gemma
from fleet.engine.prompt import TokenRow


class Watched:
    """A model that counts the tokens of its passes."""

    def __init__(self, model: Gemma) -> None:
        self._model = model
        self.tokens = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run(self, h: torch.Tensor, *arguments: Any, **more: Any) -> torch.Tensor:
        self.tokens += len(h)
        return self._model.run(h, *arguments, **more)


def rows() -> list[TokenRow]:
    return [TokenRow([2, *range(10, 10 + n)], 2, 1) for n in (30, 4, 9, 21, 3, 14, 5, 40, 8)]


def test_nothing_is_computed_beyond_the_room(tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Gemma.load(tiny_base_folder, dtype=torch.float32)
    every, room, micro = rows(), 50, 20
    roomy = FrozenRows(model, 2)
    roomy.prepare(0, every)
    monkeypatch.setattr(frozen_rows, "KEPT_TRUNK_BYTES", room * model.config.hidden * 4)
    monkeypatch.setattr(frozen_rows, "MICRO_TOKENS", micro)
    watched = Watched(model)
    small = FrozenRows(cast(Gemma, watched), 2)
    small.prepare(0, every)
    spent = watched.tokens
    assert spent < room + micro
    small.prepare(1, every)
    assert watched.tokens - spent < micro  # what little room is left is for short rows
    named = [((0, i), row) for i, row in enumerate(every)]
    torch.testing.assert_close(small.states(named), roomy.states(named))
    kept = watched.tokens
    small.states(sorted(named, key=lambda pair: len(pair[1].ids))[:3])
    assert watched.tokens == kept
