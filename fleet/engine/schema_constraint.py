"""Compact JSON of a schema, token by token, along the tokens that the tokenizer itself would choose.

llguidance says which bytes are forced and which tokens keep to the grammar. At a boundary of forced text
it allows several tokenisations of the same bytes, while training saw one: ``tok(json) + [end]``. Two facts
about byte-pair tokenizers bring decoding back to that one, without knowing what comes later:

- the tokens on either side of a token boundary are what each side gives alone. So when the bytes ``F`` are
  forced, the coming tokens are those of ``F[:p]``, where ``p`` is the end of ``F`` or the start of a token
  that runs over it: whatever all such ``p`` agree on is forced;
- two neighbours in a canonical sequence are the canonical tokens of their joint text. A token that
  fails this beside its predecessor, or before the bytes it would force, is not offered.

Knows nothing of JSON Schema, models or sampling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fleet.engine.pattern_regex import samples
from fleet.engine.schema_close import BACKSLASH, QUOTE, Lexical, closing_bytes
from fleet.engine.schema_grammar import has_rival_choices, has_verbatim, patterns, schema_grammar
from fleet.engine.specs import SchemaSpec
from fleet.engine.vocabulary import Vocabulary, split_utf8
from fleet.errors import JobError
from fleet.schema_values import resolved

if TYPE_CHECKING:
    from llguidance import LLMatcher

__all__ = ["SchemaCompiler", "SchemaConstraint", "Traits"]

DENSE = 4096
"""Above this many allowed tokens ``allowed`` is None: a masked product beats gathering head rows."""

SPARSE = 256
"""Up to this many allowed tokens each is tested for being canonical; above, only those with a quote."""


class SchemaCompiler:
    """Makes constraints; the grammar of a schema without verbatim strings is compiled once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._fixed: dict[str, LLMatcher] = {}
        self._traits: dict[str, Traits] = {}

    def start(self, spec: SchemaSpec, job_text: str) -> SchemaConstraint:
        """Raises ValueError for the schema, JobError for a text too long to copy from."""
        schema, vocabulary = spec.schema, self._vocabulary
        key = json.dumps(schema)
        traits = self._traits.get(key)
        if traits is None:
            plain = resolved(schema)
            ends = tuple(end for pattern in patterns(plain) for end in samples(pattern))
            traits = self._traits[key] = Traits(has_verbatim(plain), has_rival_choices(plain), ends)
        if traits.verbatim:
            return SchemaConstraint(vocabulary, self._compile_for(schema, job_text), traits)
        matcher = self._fixed.get(key)
        if matcher is None:
            matcher = self._fixed[key] = self._compile(schema, "")
        return SchemaConstraint(vocabulary, matcher.deep_copy(), traits)

    def _compile_for(self, schema: Mapping[str, Any], job_text: str) -> LLMatcher:
        try:
            return self._compile(schema, job_text)
        except ValueError as error:
            self._compile(schema, "a")  # whether it is the schema's own fault
            raise JobError("the job's text is too long to copy values from: shorten it") from error

    def _compile(self, schema: Mapping[str, Any], job_text: str) -> LLMatcher:
        from llguidance import LLMatcher  # labels and text do without it

        matcher = LLMatcher(self._vocabulary.grammar, schema_grammar(schema, job_text), log_level=0)
        if matcher.is_error():
            raise ValueError(f"the schema cannot be made into a grammar: {_reason(matcher)}")
        return matcher


class SchemaConstraint:
    """Where one answer stands in its grammar."""

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher, traits: Traits) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._traits = traits
        self._lexical = Lexical()
        self._spelled = bytearray()
        self._last: int | None = None
        self._next: _Next | None = None
        self.done = False

    def forced(self) -> list[int]:
        tokens: list[int] = []
        while not self.done:
            step = self._forced_by_bytes()
            if not step:
                only = self._look().ids
                if only is None or len(only) != 1:
                    break
                step = only.tolist()
            for token in step:
                self._consume(token)
            tokens += step
        return tokens

    def allowed(self) -> Tensor | None:
        return self._look().ids

    def mask(self) -> Tensor | None:
        return torch.from_numpy(self._look().bits)

    def advance(self, token: int) -> None:
        offered = not self.done and 0 <= token < self._vocabulary.size and self._look().bits[token]
        # One that was offered may still be refused, by a matcher that has come to its limits.
        if not offered and (self.done or self._matcher.validate_tokens([token]) != 1):
            raise ValueError(f"token {token} breaks the schema here")
        self._consume(token)

    def close(self) -> list[int]:
        if self.done:
            return []
        vocabulary = self._vocabulary
        rest = closing_bytes(self._matcher, vocabulary, self._lexical, self._traits.samples)
        tokens = vocabulary.encode_bytes(rest)
        if self._matcher.validate_tokens(tokens) != len(tokens):
            tokens = vocabulary.byte_tokens[np.frombuffer(rest, np.uint8)].tolist()
        tokens.append(vocabulary.eos)
        for token in tokens:
            self._consume(token)
        return tokens

    def value(self) -> Any:
        return json.loads(self.text())

    def text(self) -> str:
        if not self.done:
            raise ValueError("the answer is not complete")
        return self._spelled.decode()

    def _consume(self, token: int) -> None:
        self._next = None
        self._last = token
        # A matcher that has run into one of its limits allows the end token and nothing else.
        if self._matcher.is_error() or (
            token != self._vocabulary.eos and not self._matcher.consume_token(token)
        ):
            raise JobError(f"the answer cannot go on in its grammar: {_reason(self._matcher)}")
        if token == self._vocabulary.eos:
            self.done = True
            return
        self._spelled += self._vocabulary.spelling[token]
        self._lexical = self._lexical.after(self._vocabulary.spelling[token])

    def _forced_by_bytes(self) -> list[int]:
        """The tokens that every canonical continuation of the forced bytes begins with."""
        begun, whole, _ = split_utf8(self._matcher.compute_ff_bytes())
        if begun:
            # The rest of a character that has no token of its own: byte tokens it is.
            return list(self._vocabulary.byte_tokens[np.frombuffer(begun, np.uint8)].tolist())
        if not whole:
            return []
        ways = [self._vocabulary.encode(whole[:p].decode()) for p in self._boundaries(self._matcher, whole)]
        agreed = takewhile(lambda step: len(set(step)) == 1, zip(*ways, strict=False))
        return [step[0] for step in agreed]

    def _boundaries(self, matcher: LLMatcher, forced: bytes) -> list[int]:
        """Offsets in ``forced`` where a token starts that runs over its end, and the end itself."""
        vocabulary = self._vocabulary
        found = []
        for p in range(max(0, len(forced) - vocabulary.longest + 1), len(forced)):
            if forced[p] & 0xC0 == 0x80:
                continue
            longer = vocabulary.longer(forced[p:])
            if len(longer) == 0:
                continue
            ahead = matcher.deep_copy()
            ahead.consume_tokens(vocabulary.encode(forced[:p].decode()))
            if _bits(ahead)[longer].any():
                found.append(p)
        return [*found, len(forced)]

    def _look(self) -> _Next:
        if self._next is None:
            bits = self._candidates()
            few = bits.sum() <= min(DENSE, self._vocabulary.size // 2)
            self._next = _Next(bits, torch.from_numpy(np.flatnonzero(bits)) if few else None)
        return self._next

    def _candidates(self) -> NDArray[np.bool_]:
        vocabulary, bits = self._vocabulary, _bits(self._matcher)[: self._vocabulary.size]
        _, whole, _ = split_utf8(self._matcher.compute_ff_bytes())
        if whole:
            # Forced bytes, but not forced tokens: the first token of each way on.
            ways = self._boundaries(self._matcher, whole)
            kept = np.zeros_like(bits)
            kept[[vocabulary.encode(whole[:p].decode())[0] for p in ways if p > 0]] = True
            if 0 in ways:
                kept[vocabulary.longer(whole)] = True
            bits &= kept
        count = int(bits.sum())
        if count <= SPARSE:
            refused = [token for token in np.flatnonzero(bits).tolist() if not self._canonical(token)]
        else:
            quoted = vocabulary.with_quote[bits[vocabulary.with_quote]].tolist()
            followers: dict[bytes, _Ways] | None = (
                {} if self._lexical.in_string and not self._traits.rival_choices else None
            )
            refused = [token for token in quoted if not self._canonical(token, followers)]
        # On a way that the model itself led off the canonical one, nothing may be left.
        if len(refused) < count:
            bits[refused] = False
        return bits

    def _canonical(self, token: int, followers: dict[bytes, _Ways] | None = None) -> bool:
        """Whether some canonical answer has ``token`` here, as far as its neighbours tell.

        ``followers`` remembers what comes after a string that ends here: the same whatever it holds.
        """
        vocabulary = self._vocabulary
        spelled = vocabulary.spelling[token]
        if token == vocabulary.eos or not _whole(spelled):
            return True
        if self._last is not None:
            before = vocabulary.spelling[self._last]
            # Control strings are cut behind their first character, "<" or "[": there neighbours may merge.
            cut = before.endswith((b"<", b"["))
            if (
                _whole(before)
                and not cut
                and vocabulary.encode((before + spelled).decode()) != [self._last, token]
            ):
                return False
        if followers is None:
            ways = self._ways_after(token)
        else:
            end = self._string_end(spelled)
            if end is None:
                return True
            if end not in followers:
                followers[end] = self._ways_after(token)
            ways = followers[end]
        return any(vocabulary.encode((spelled + way).decode())[0] == token for way in ways)

    def _ways_after(self, token: int) -> _Ways:
        """The forced bytes after ``token``, up to each place where a token may begin or end."""
        ahead = self._matcher.deep_copy()
        ahead.consume_token(token)
        _, whole, _ = split_utf8(ahead.compute_ff_bytes())
        return [whole[:p] for p in self._boundaries(ahead, whole)]

    def _string_end(self, spelled: bytes) -> bytes | None:
        """``spelled`` from the quote on that ends the string we are in."""
        escaped = self._lexical.escaped
        for place, byte in enumerate(spelled):
            if byte == QUOTE and not escaped:
                return spelled[place:]
            escaped = byte == BACKSLASH and not escaped
        return None


_Ways = list[bytes]


@dataclass(frozen=True, slots=True)
class Traits:
    """What to know of a schema beside its grammar."""

    verbatim: bool
    rival_choices: bool
    samples: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Next:
    bits: NDArray[np.bool_]
    ids: Tensor | None


def _reason(matcher: LLMatcher) -> str:
    """Only the first line: what follows quotes the grammar, and with it the job's text."""
    lines = [line for line in matcher.get_error().splitlines() if line.strip()]
    return lines[0][:200] if lines else "?"


def _whole(spelled: bytes) -> bool:
    begun, _, cut = split_utf8(spelled)
    return not begun and not cut


def _bits(matcher: LLMatcher) -> NDArray[np.bool_]:
    """Which tokens the grammar takes next; as long as the vocabulary rounded up to 32."""
    packed = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(packed, bitorder="little").view(np.bool_)
