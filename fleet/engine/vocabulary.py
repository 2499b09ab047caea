"""A tokenizer seen as bytes: what each token spells, and how a text is tokenised when nobody asks.

The canonical tokens of a text are those that prompts and training targets are made of. Knows nothing of
grammars or models; llguidance is imported on first use.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from fleet.engine.prompt import Renderer
from fleet.errors import BaseError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

__all__ = ["Vocabulary"]

PROBE = '{"name":"Zoë  \U0001f98a","note":"a\\n b"}\n\n<eos> 12'
"""Must survive encoding and decoding; holds a character that only bytes can spell in small vocabularies."""


class Vocabulary:
    """Use ``Vocabulary.of``: building one takes about a second on a large vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        if tokenizer.eos_token_id is None:
            raise BaseError("the base's tokenizer has no end token: set eos_token in tokenizer_config.json")
        pieces = tokenizer.get_vocab()
        self._renderer = Renderer.of(tokenizer)
        self.eos = int(tokenizer.eos_token_id)
        self.size = max(pieces.values()) + 1
        self.spelling: list[bytes] = [b""] * self.size
        for piece, index in pieces.items():
            byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
            self.spelling[index] = bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
        self.special = self._find_special(tokenizer)
        self.byte_tokens = self._find_bytes()
        if self.spell(self.encode(PROBE)) != PROBE.encode():
            raise BaseError(
                "the base's tokenizer changes the text it encodes; constraints need one that keeps every "
                "byte, as Gemma 3's does (BPE with byte fallback, no prefix space)"
            )

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
        """The one vocabulary of this tokenizer object in this process."""
        known = _KNOWN.get(tokenizer)
        if known is None:
            known = _KNOWN[tokenizer] = cls(tokenizer)
        return known

    def _find_special(self, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
        """Tokens that no text is made of: control tokens, marked as such or not, and unused ids."""
        named = {
            index
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.special or self.encode(self.spelling[index].decode()) != [index]
        }
        unused = {index for index, spelled in enumerate(self.spelling) if not spelled}
        return frozenset(named | unused | {self.eos})

    def _find_bytes(self) -> NDArray[np.int64]:
        # Byte-fallback tokens come first in these vocabularies, and any spelling of the byte will do.
        found = np.full(256, -1, dtype=np.int64)
        for index, spelled in enumerate(self.spelling):
            if len(spelled) == 1 and found[spelled[0]] < 0 and index not in self.special:
                found[spelled[0]] = index
        return found

    def encode(self, text: str) -> list[int]:
        """Canonical tokens of ``text``; no begin or end token."""
        return self._renderer.text_ids(text)

    def encode_bytes(self, spelled: bytes) -> list[int]:
        """Tokens that spell any bytes: canonical where they are UTF-8, byte by byte where they are not."""
        head, middle, tail = split_utf8(spelled)
        bytewise = self.byte_tokens.tolist()
        return [*(bytewise[b] for b in head), *self.encode(middle.decode()), *(bytewise[b] for b in tail)]

    def spell(self, ids: Iterable[int]) -> bytes:
        """The bytes of these tokens; special tokens spell nothing."""
        return b"".join(self.spelling[index] for index in ids if index not in self.special)

    def longer(self, prefix: bytes) -> NDArray[np.int64]:
        """Ids of the tokens that start with ``prefix`` (not empty) and go on."""
        spellings, ids = self._sorted
        first = bisect_left(spellings, prefix + b"\x00")
        # No UTF-8 text and no byte token continues with 0xFF 0xFF.
        return ids[first : bisect_left(spellings, prefix + b"\xff\xff")]

    @cached_property
    def _sorted(self) -> tuple[list[bytes], NDArray[np.int64]]:
        pairs = sorted((self.spelling[i], i) for i in range(self.size) if i not in self.special)
        return [spelled for spelled, _ in pairs], np.array([index for _, index in pairs], dtype=np.int64)

    @cached_property
    def longest(self) -> int:
        return max(len(self.spelling[index]) for index in range(self.size) if index not in self.special)

    @cached_property
    def with_quote(self) -> NDArray[np.int64]:
        """Ids of the tokens with a double quote in them: the only ones that can end a JSON string."""
        return np.array(
            [i for i, spelled in enumerate(self.spelling) if b'"' in spelled and i not in self.special],
            dtype=np.int64,
        )

    @cached_property
    def text_mask(self) -> NDArray[np.bool_]:
        """``[size]``: the tokens that spell text, and the end token."""
        mask = np.ones(self.size, dtype=np.bool_)
        mask[sorted(self.special - {self.eos})] = False
        return mask

    @cached_property
    def grammar(self) -> LLTokenizer:
        """llguidance's view; built from our table, so that both agree on what is special."""
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_Wrapped(self)))


_KNOWN: WeakKeyDictionary[PreTrainedTokenizerFast, Vocabulary] = WeakKeyDictionary()


class _Wrapped:
    """What llguidance asks of a tokenizer; special tokens must not spell text, or they could match it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.eos
        self.bos_token_id = None
        self.special_token_ids = sorted(vocabulary.special)
        self.tokens = [
            b"\xff<%d>" % index if index in vocabulary.special else spelled
            for index, spelled in enumerate(vocabulary.spelling)
        ]
        self._encode = vocabulary.encode_bytes

    def __call__(self, spelled: bytes) -> list[int]:
        return self._encode(spelled)


def split_utf8(spelled: bytes) -> tuple[bytes, bytes, bytes]:
    """(end of a character begun before, whole characters, begin of a character ended later)."""
    start = 0
    while start < len(spelled) and spelled[start] & 0xC0 == 0x80:
        start += 1
    end = len(spelled)
    for back in range(1, min(4, end - start) + 1):
        byte = spelled[end - back]
        if byte & 0xC0 != 0x80:
            width = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            if width > back:
                end -= back
            break
    return spelled[:start], spelled[start:end], spelled[end:]
