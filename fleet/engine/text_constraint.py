"""Free text up to the end token or a stop string. Knows nothing of sampling or of length limits."""

from __future__ import annotations

import torch
from torch import Tensor

from fleet.engine.specs import TextSpec
from fleet.engine.vocabulary import Vocabulary

__all__ = ["TextConstraint"]


class TextConstraint:
    """Everything but special tokens may come; the text ends before the first stop string."""

    def __init__(self, vocabulary: Vocabulary, spec: TextSpec) -> None:
        self._vocabulary = vocabulary
        self._stops = [stop.encode() for stop in spec.stop if stop]
        self._spelled = bytearray()
        self._stopped = False

    @property
    def done(self) -> bool:
        return self._stopped

    def forced(self) -> list[int]:
        return []

    def allowed(self) -> Tensor | None:
        return None

    def mask(self) -> Tensor | None:
        return torch.from_numpy(self._vocabulary.text_mask)

    def advance(self, token: int) -> None:
        vocabulary = self._vocabulary
        if token == vocabulary.eos:
            self._stopped = True
            return
        if token in vocabulary.special or not 0 <= token < vocabulary.size:
            raise ValueError(f"token {token} is not text")
        before = len(self._spelled)
        self._spelled += vocabulary.spelling[token]
        ends = [self._spelled.find(stop, max(0, before - len(stop))) for stop in self._stops]
        found = [end for end in ends if end >= 0]
        if found:
            del self._spelled[min(found) :]
            self._stopped = True

    def close(self) -> list[int]:
        self._stopped = True
        return []

    def value(self) -> str:
        return self.text()

    def text(self) -> str:
        # Training targets start with one space; a limit may cut a character in two.
        return self._spelled.decode("utf-8", errors="ignore").removeprefix(" ")

    def certain(self) -> str:
        """The text so far that nothing will take back: without what may be the beginning of a stop string."""
        held = max(
            (
                n
                for stop in self._stops
                for n in range(1, min(len(stop), len(self._spelled) + 1))
                if self._spelled.endswith(stop[:n])
            ),
            default=0,
        )
        sure = self._spelled if self._stopped else self._spelled[: len(self._spelled) - held]
        return sure.decode("utf-8", errors="ignore").removeprefix(" ")
