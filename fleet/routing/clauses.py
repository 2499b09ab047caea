"""Where a job's text may be cut into the things that it says. Knows no tasks and no trunk.

By punctuation, line breaks, and the words for "and" and "then" of a few languages, those left out that are
frequent words of English: a cut too many does little harm, since what lies between two cuts is judged by what
it says, and a cut that is missing hides a compound job.
"""

from __future__ import annotations

import re

__all__ = ["ENDS", "clauses"]

ENDS = 4
"""Clauses that are looked at from the beginning of a job, and as many from its end: what is asked for stands
above or below what it is asked of."""
CHARACTERS = 600
"""Of either end in which clauses are looked for."""

_WORDS = (
    "and then|and|then|plus|also|as well as"
    "|und dann|und|sowie|dann|außerdem|et puis|et|puis|ainsi que|y luego|y|luego|además|e poi|e|poi|inoltre"
    "|e depois|depois|além disso|en dan|en|daarna|och|sedan|og|oraz|potem|a potom|potom"
    "|и затем|и потом|и|а также|а затем|затем|потом|та|ve|sonra|ayrıca|lalu|kemudian|và|rồi"
    "|그리고|또한|그다음|ثم|كذلك|और|फिर"
)
_CUT = re.compile(
    r"[\r\n]+|[.!?;:…]+(?=\s|$)|[,](?=\s)|[。！？；：，、؟؛،।]+|\s[-–—&+|/]+\s|—"
    rf"|(?<=\s)(?:{_WORDS})(?=\s)"
    r"|然后|并且|同时|接着|そして|それから|また、",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"[^\W\d_]")
_FEWEST = 3
"""Letters of a clause; Chinese ones count for more, but so short a text says nothing either."""


def clauses(text: str) -> list[tuple[int, int]]:
    """Begin and end of each clause near the ends of a text; fewer than two where it cannot be cut.

    Of a text longer than both ends, what lies between them is a cut as well.
    """
    if len(text) <= 2 * CHARACTERS:
        found = _cut(text, 0, len(text))
    else:
        found = [*_cut(text, 0, CHARACTERS)[:ENDS], *_cut(text, len(text) - CHARACTERS, len(text))[-ENDS:]]
    return found if len(found) <= 2 * ENDS else [*found[:ENDS], *found[-ENDS:]]


def _cut(text: str, begin: int, end: int) -> list[tuple[int, int]]:
    found = []
    for match in _CUT.finditer(text, begin, end):
        found.append((begin, match.start()))
        begin = match.end()
    found.append((begin, end))
    trimmed = ((b + len(text[b:e]) - len(text[b:e].lstrip()), b + len(text[b:e].rstrip())) for b, e in found)
    return [(b, e) for b, e in trimmed if len(_LETTERS.findall(text, b, e)) >= _FEWEST]
