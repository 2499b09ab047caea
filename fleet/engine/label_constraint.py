"""One of a set of labels: a trie over their tokens. Knows nothing of the text that is classified."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fleet.engine.specs import LabelSpec
from fleet.engine.vocabulary import Vocabulary

__all__ = ["LabelConstraint", "LabelTrie"]


@dataclass(slots=True)
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    label: str | None = None
    ids: Tensor | None = None
    to_end: tuple[int, ...] = ()
    """Tokens of the shortest way from here to a complete label."""


class LabelTrie:
    """Canonical tokens of ``" " + label`` and the end token, for every label; shared by all answers."""

    def __init__(self, vocabulary: Vocabulary, spec: LabelSpec) -> None:
        self.root = _Node()
        for label in spec.labels:
            node = self.root
            for token in (*vocabulary.encode(" " + label), vocabulary.eos):
                node = node.children.setdefault(token, _Node())
            if node.label is not None:
                raise ValueError(f"labels {node.label!r} and {label!r} are the same to the tokenizer")
            node.label = label
        _finish(self.root)


def _finish(root: _Node) -> None:
    order = [root]
    for node in order:
        order.extend(node.children.values())
    for node in reversed(order):
        if node.children:
            node.ids = torch.tensor(sorted(node.children))
            ways = ((token, *child.to_end) for token, child in sorted(node.children.items()))
            node.to_end = min(ways, key=len)


class LabelConstraint:
    """Where one answer stands in the trie."""

    def __init__(self, trie: LabelTrie) -> None:
        self._node = trie.root

    @property
    def done(self) -> bool:
        return self._node.label is not None

    def forced(self) -> list[int]:
        tokens = []
        while len(self._node.children) == 1:
            [(token, self._node)] = self._node.children.items()
            tokens.append(token)
        return tokens

    def allowed(self) -> Tensor | None:
        return self._node.ids

    def mask(self) -> Tensor | None:
        return None

    def advance(self, token: int) -> None:
        child = self._node.children.get(token)
        if child is None:
            raise ValueError(f"token {token} leads to no label")
        self._node = child

    def close(self) -> list[int]:
        tokens = list(self._node.to_end)
        for token in tokens:
            self._node = self._node.children[token]
        return tokens

    def value(self) -> str:
        return self.text()

    def text(self) -> str:
        if self._node.label is None:
            raise ValueError("the answer is not complete")
        return self._node.label
