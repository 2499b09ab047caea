"""What a text says, whatever its case, punctuation and spacing. Knows nothing of tasks."""

from __future__ import annotations

import hashlib
import re
import unicodedata

__all__ = ["content_digest", "words"]

_WORD = re.compile(r"\w+")


def words(text: str) -> str:
    """Its words alone; of a text that has none, its signs."""
    clean = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(clean) or clean.split())


def content_digest(text: str) -> int:
    """Of what it says: 64 bits."""
    said = words(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(said).digest()[:8])
