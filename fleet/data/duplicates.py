"""Rows that repeat each other, exactly or nearly, within a task and between its train and eval rows.

Near means a Jaccard similarity of at least one half between the sets of word 3-grams, or of character
3-grams where words are not set apart by spaces. Candidates come from MinHash with locality-sensitive
hashing (Broder 1997; Indyk and Motwani 1998), with 50 bands of 3 so that a pair at the threshold is
missed about once in 800; each candidate is then judged by its true similarity. Knows nothing of tasks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from datasketch import MinHash, MinHashLSH

from fleet.data.rows import Row

__all__ = ["NEAR", "Pair", "exact_pairs", "near_pairs", "normal", "shingles"]

NEAR = 0.5
_BANDS, _ROWS = 50, 3
_WORD = re.compile(r"\w+")
# Han with its extensions, kana, Thai, Lao, Myanmar, Khmer: no spaces between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003134f]"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Row ``second`` repeats row ``first`` (indices); ``similarity`` is 1.0 for equal texts."""

    first: int
    second: int
    similarity: float


def normal(row: Row) -> str:
    """The row's input as one string in which case, width and spacing no longer differ."""
    text = "\n".join(row.fields[name] for name in sorted(row.fields))
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> frozenset[str]:
    """The set of 3-grams of a normalised text; one shorter than three words or characters is whole."""
    words = _WORD.findall(text)
    letters = "".join(words)
    if len(_UNSPACED.findall(letters)) * 3 > len(letters):
        grams = [letters[i : i + 3] for i in range(len(letters) - 2)]
        return frozenset(grams or [letters])
    grams = [" ".join(words[i : i + 3]) for i in range(len(words) - 2)]
    return frozenset(grams or [" ".join(words) or text])


def exact_pairs(texts: Sequence[str]) -> Iterator[Pair]:
    """Each text that was there before, paired with its first occurrence."""
    seen: dict[str, int] = {}
    for index, text in enumerate(texts):
        if text in seen:
            yield Pair(seen[text], index, 1.0)
        else:
            seen[text] = index


def near_pairs(texts: Sequence[str], threshold: float = NEAR) -> list[Pair]:
    """Pairs of different texts that are at least ``threshold`` similar, by index."""
    firsts: Mapping[str, int] = {text: index for index, text in reversed(list(enumerate(texts)))}
    sets = {index: shingles(text) for text, index in sorted(firsts.items(), key=lambda item: item[1])}
    index_of = MinHashLSH(threshold=threshold, num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
    found: list[Pair] = []
    hashes = MinHash.bulk(
        ([gram.encode() for gram in sorted(grams)] for grams in sets.values()),
        num_perm=_BANDS * _ROWS,
        seed=1,
    )
    for (index, grams), hashed in zip(sets.items(), hashes, strict=True):
        for other in sorted(index_of.query(hashed)):
            similarity = len(grams & sets[other]) / len(grams | sets[other])
            if similarity >= threshold:
                found.append(Pair(other, index, similarity))
        index_of.insert(index, hashed, check_duplication=False)
    return found
