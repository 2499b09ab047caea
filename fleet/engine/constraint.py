"""What an answer may be: the protocol of a running constraint, and the compiler that starts one.

A constraint follows one answer token by token and says which tokens may come next. Whatever it allows,
the finished answer is valid: one of the labels, JSON of the schema, or text. It also keeps to the
canonical tokens of the answer, the path that training took, wherever that costs little to know. Knows
nothing of models, batches or sampling; llguidance is only loaded for JSON.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from fleet.engine.label_constraint import LabelConstraint, LabelTrie
from fleet.engine.schema_constraint import SchemaCompiler
from fleet.engine.specs import ConstraintSpec, LabelSpec, SchemaSpec
from fleet.engine.text_constraint import TextConstraint
from fleet.engine.vocabulary import Vocabulary

__all__ = ["Constraint", "ConstraintCompiler"]


class Constraint(Protocol):
    """The state of one answer. Call ``forced`` first and after every ``advance``."""

    @property
    def done(self) -> bool:
        """The answer is complete: its end token has been consumed, or a stop string was met."""
        ...

    def forced(self) -> list[int]:
        """Tokens that must come now, already consumed: the caller appends them and does not advance."""
        ...

    def allowed(self) -> Tensor | None:
        """Ids that may come next, int64 ``[n]`` in rising order, n >= 2; None when there are too many.

        Only after ``forced`` and while not done. With None, ``mask`` says which. States that are the
        same for all answers (a label trie's) return the same tensor object.
        """
        ...

    def mask(self) -> Tensor | None:
        """Bool ``[vocabulary]`` of the ids that may come next, for when ``allowed`` is None.

        The length is the tokenizer's; a model's head may have fewer or more rows, none of them allowed.
        """
        ...

    def advance(self, token: int) -> None:
        """Consume one token that was allowed. Raises ValueError for any other."""
        ...

    def close(self) -> list[int]:
        """End the answer now, without the model: the tokens of a shortest completion, consumed."""
        ...

    def value(self) -> Any:
        """The parsed answer: the label, the JSON value, or the text. Only when done."""
        ...

    def text(self) -> str:
        """The answer as it was written: a label, compact JSON, or text. Only when done."""
        ...


class ConstraintCompiler:
    """Starts constraints for one tokenizer; keeps what answers of the same spec share."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._vocabulary = Vocabulary.of(tokenizer)
        self._tries: dict[LabelSpec, LabelTrie] = {}
        self._schemas = SchemaCompiler(self._vocabulary)

    def start(self, spec: ConstraintSpec, job_text: str = "") -> Constraint:
        """A fresh constraint. ``job_text`` is the job's canonical text, the source of verbatim strings.

        Raises ValueError for a schema outside the supported subset and for labels that the tokenizer
        cannot tell apart.
        """
        if isinstance(spec, LabelSpec):
            trie = self._tries.get(spec)
            if trie is None:
                trie = self._tries[spec] = LabelTrie(self._vocabulary, spec)
            return LabelConstraint(trie)
        if isinstance(spec, SchemaSpec):
            return self._schemas.start(spec, job_text)
        return TextConstraint(self._vocabulary, spec)
