"""Small changes to a text that the same expert should still answer.

Each kind is a function of (text, seed) alone: the same pair always gives the same text. ``None``
means that this kind cannot change this text (no punctuation to drop, no case in the script). It
does not know the router: whether a decision flipped is for whoever asks to judge.
"""

import hashlib
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from unicodedata import category

import regex

Change = Callable[[str, random.Random], str]

EMOJI = ("🙂", "🙏", "😅", "👍", "🤔")
WORDS_PER_TYPO = 9
SHORTEST_WITH_A_TYPO = 4
FEWEST_WORDS_KEPT = 3
_GRAPHEME = regex.compile(r"\X")


def _typos(text: str, rng: random.Random) -> str:
    """Swap two neighbouring inner graphemes, about once in nine words."""
    parts = regex.split(r"(\s+)", text)
    places: list[tuple[int, list[str], list[int]]] = []
    for at, part in enumerate(parts):
        marks = _GRAPHEME.findall(part)
        if len(marks) >= SHORTEST_WITH_A_TYPO:
            swaps = [i for i in range(1, len(marks) - 2) if marks[i] != marks[i + 1]]
            if swaps:
                places.append((at, marks, swaps))
    count = min(len(places), max(1, len(text.split()) // WORDS_PER_TYPO))
    for at, marks, swaps in rng.sample(places, count):
        i = rng.choice(swaps)
        marks[i], marks[i + 1] = marks[i + 1], marks[i]
        parts[at] = "".join(marks)
    return "".join(parts)


def _punctuation_added(text: str, rng: random.Random) -> str:
    return text.rstrip() + rng.choice(("?", "!", ".", "!!", "..."))


def _punctuation_dropped(text: str, _: random.Random) -> str:
    return "".join(mark for mark in text if not category(mark).startswith("P"))


def _whitespace(text: str, rng: random.Random) -> str:
    return f" {regex.sub(r' ', '  ', text)}" + rng.choice((" ", "  ", "\n"))


def _emoji(text: str, rng: random.Random) -> str:
    return f"{text} {rng.choice(EMOJI)}"


def _truncation(text: str, _: random.Random) -> str:
    words = text.split()
    kept = max(FEWEST_WORDS_KEPT, len(words) - max(1, len(words) // 5))
    return text if kept >= len(words) else " ".join(words[:kept])


def _word_order(text: str, rng: random.Random) -> str:
    words = text.split()
    places = [i for i in range(len(words) - 1) if words[i] != words[i + 1]]
    if not places:
        return text
    i = rng.choice(places)
    words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(words)


KINDS: Mapping[str, Change] = MappingProxyType(
    {
        "typos": _typos,
        "upper case": lambda text, _: text.upper(),
        "lower case": lambda text, _: text.lower(),
        "punctuation added": _punctuation_added,
        "punctuation dropped": _punctuation_dropped,
        "whitespace": _whitespace,
        "emoji": _emoji,
        "truncation": _truncation,
        "word order": _word_order,
    }
)


def perturbed(kind: str, text: str, seed: int) -> str | None:
    """The text changed by one kind, or None where that kind leaves it as it was or empties it."""
    given = f"{seed}\0{kind}\0{text}".encode("utf-8", "surrogatepass")
    rng = random.Random(hashlib.sha256(given).digest())
    changed = KINDS[kind](text, rng)
    return changed if changed.strip() and changed != text else None
