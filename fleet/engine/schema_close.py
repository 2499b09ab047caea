"""The shortest end of a JSON answer that was cut off, found in its grammar without a model.

Outside strings the structural characters decide (``}`` before ``]`` before ``,``); to leave a string or
to make a missing value, a bounded search over bytes. Knows nothing of schemas or canonical tokens.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fleet.engine.vocabulary import Vocabulary
from fleet.errors import JobError

if TYPE_CHECKING:
    from llguidance import LLMatcher

__all__ = ["Lexical", "closing_bytes"]

QUOTE, BACKSLASH = b'"\\'

MAX_STEPS = 4096
"""Structural steps of one ending; more than any answer needs whose schema asks for so few items."""

MAX_EXPANSIONS = 20_000
"""States looked at for one value."""

ALIKE = 4
"""Ways followed of those that look the same."""

WIDE = 64
"""Where more bytes than this may come, the search tries only a few plain ones."""

PLAIN = b"0aA -"

MAX_FILL = 1000
"""Plain characters appended to a string that is too short."""


@dataclass(frozen=True, slots=True)
class Lexical:
    """Where in JSON's lexical structure a text ends."""

    in_string: bool = False
    escaped: bool = False

    def after(self, spelled: bytes) -> Lexical:
        in_string, escaped = self.in_string, self.escaped
        for byte in spelled:
            if escaped:
                escaped = False
            elif byte == QUOTE:
                in_string = not in_string
            elif byte == BACKSLASH:
                escaped = in_string
        return Lexical(in_string, escaped)


def closing_bytes(
    matcher: LLMatcher, vocabulary: Vocabulary, lexical: Lexical, samples: Sequence[bytes]
) -> bytes:
    """Bytes that complete what ``matcher`` has consumed, which ends in state ``lexical``.

    ``samples`` each match a pattern of the schema: appending one, or its end, fulfils it where a search
    would find nothing. Raises JobError when no end is found within the bounds.
    """
    walk = _Walk(matcher.deep_copy(), vocabulary, lexical, b"")
    for _ in range(MAX_STEPS):
        walk = walk.settled()
        if walk.ended:
            return walk.spelled
        step = walk.structural
        walk = walk.then(step) if step is not None else _value_end(walk, samples)
    raise JobError("the answer was cut off and cannot be closed: its schema asks for too many items")


@dataclass(frozen=True, slots=True)
class _Walk:
    """A way on from the cut: what it spells, and the grammar after it."""

    matcher: LLMatcher
    vocabulary: Vocabulary
    state: Lexical
    spelled: bytes

    def then(self, *added: int) -> _Walk:
        ahead = self.matcher.deep_copy()
        if not ahead.consume_tokens([int(self.vocabulary.byte_tokens[byte]) for byte in added]):
            raise JobError("the answer was cut off and cannot be closed: its grammar has grown too large")
        grown = bytes(added)
        return _Walk(ahead, self.vocabulary, self.state.after(grown), self.spelled + grown)

    def settled(self) -> _Walk:
        """With all bytes appended that can only come."""
        forced = self.matcher.compute_ff_bytes()
        return self.then(*forced) if forced else self

    def takes(self, added: bytes) -> bool:
        """Whether the grammar lets these bytes come next."""
        ids = [int(self.vocabulary.byte_tokens[byte]) for byte in added]
        return bool(self.matcher.validate_tokens(ids) == len(ids))

    @property
    def ended(self) -> bool:
        return bool(self.matcher.is_accepting())

    @property
    def next_bytes(self) -> list[int]:
        packed = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        tokens = self.vocabulary.byte_tokens
        bits = (packed[tokens >> 3] >> (tokens & 7)) & (tokens >= 0)
        return [int(byte) for byte in np.flatnonzero(bits & 1)]

    @property
    def structural(self) -> int | None:
        """The byte that takes this walk on, where JSON's structure alone says so."""
        if self.state.in_string:
            return None
        following = self.next_bytes
        return next((byte for byte in b"}]," if byte in following), None)


def _value_end(start: _Walk, samples: Sequence[bytes]) -> _Walk:
    following = start.next_bytes
    if following and (start.state.escaped or all(byte & 0xC0 == 0x80 for byte in following)):
        # Within a character any way on will do; the least work is not to spell one by its number.
        return start.then(min(following, key=lambda byte: (byte == ord("u"), byte)))
    if start.state.in_string and QUOTE not in following:
        ends = sorted((sample[cut:] for sample in samples for cut in range(len(sample))), key=len)
        for end in dict.fromkeys(ends):
            if start.takes(end + b'"'):
                return start.then(*end, QUOTE)
        filled = _filled(start)
        if filled is not None:
            return filled
    return _search(start, bytes({byte for sample in samples for byte in sample if byte < 0x80}))


def _filled(start: _Walk) -> _Walk | None:
    """To the end of a string that only lacks characters, whichever they are."""
    tokens = start.vocabulary.byte_tokens
    for byte in PLAIN:
        ahead = start.matcher.deep_copy()
        for count in range(1, MAX_FILL + 1):
            if ahead.validate_tokens([int(tokens[byte])]) != 1:
                break
            ahead.consume_token(int(tokens[byte]))
            if ahead.validate_tokens([int(tokens[QUOTE])]) == 1:
                return start.then(*[byte] * count, QUOTE)
    return None


def _search(start: _Walk, likely: bytes) -> _Walk:
    """The shortest way to the end of the value that ``start`` is in or before.

    Of the ways of one length that allow the same next bytes, the first few are followed; where many
    bytes may come, only plain ones and those ``likely``.
    """
    queue = deque([start])
    seen: Counter[tuple[int, Lexical, tuple[int, ...]]] = Counter()
    looked_at = 0
    while queue and looked_at < MAX_EXPANSIONS:
        walk = queue.popleft()
        following = walk.next_bytes
        key = (len(walk.spelled), walk.state, tuple(following))
        seen[key] += 1
        if seen[key] > ALIKE:
            continue
        # A quote first, so that a string which may end does not open its content.
        tried = dict.fromkeys(byte for byte in bytes([QUOTE]) + PLAIN + likely if byte in following)
        if len(following) <= WIDE or not tried:
            tried |= dict.fromkeys(following)
        for byte in tried:
            looked_at += 1
            ahead = walk.then(byte)
            if ahead.ended or ahead.structural is not None:
                return ahead
            queue.append(ahead)
    raise JobError("the answer was cut off and cannot be closed: no short end of its value was found")
