"""Which language a text is in, if that can be said. Knows no tasks.

The judge is a model that comes inside its package: nothing is fetched, and it is loaded by the first text
that is long enough to be judged. Rather no answer than a wrong one: a text that is too short, or that
could be in one language as well as in another, has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

__all__ = ["identify", "is_multilingual"]

LONGEST = 2_000
"""Characters that are judged; more of them say nothing new."""
LEAST_LETTERS = 12
"""Bytes of letters in UTF-8, as the judge reads them: four Chinese letters say as much as twelve Latin."""
LEAST_PROBABILITY = 0.7

LEAST_ROWS = 10
ONE_IN = 10
"""A language of a task is that of one row in so many, or more."""

_NAMES = re.compile(r"(?:https?://|www\.)[!-~]+|(?<![a-z0-9_.+-])[a-z0-9_.+-]*@[\w.-]+", re.IGNORECASE)
"""Links, addresses and mentions: their letters are of no language."""
_SIGNS = re.compile(
    r"[\d_#*+=<>|\\/~^$%&{}\[\]\x00-\x08\x0e-\x1f\x7f"
    "\u2190-\u2bff\ufe0f\ufffd\ud800-\udfff\U0001f000-\U0001faff\U000e0020-\U000e007f]+"
)
"""Digits, signs, controls, halves of surrogate pairs, emoji. Named one by one: whatever else there is may be
part of a word in some script."""
_NOTHING = "zxx"
"""What the judge calls a text in no language, such as encoded data."""


def identify(text: str) -> tuple[str, float] | None:
    """ISO 639-1 code and probability; None when the text is too short or the judge unsure."""
    plain = _SIGNS.sub(" ", _NAMES.sub(" ", text[:LONGEST]))
    if len("".join(filter(str.isalpha, plain)).encode()) < LEAST_LETTERS:
        return None
    language, probability = _judge().classify(" ".join(plain.split()))
    if language == _NOTHING or probability < LEAST_PROBABILITY:
        return None
    return language, probability


def is_multilingual(languages: Mapping[str, int]) -> bool:
    """Whether rows, counted by their language, are of two languages or more; a few strays are not one."""
    total = sum(languages.values())
    return sum(count >= LEAST_ROWS and count * ONE_IN >= total for count in languages.values()) >= 2


@cache
def _judge() -> LanguageIdentifier:
    # Imported here: whoever routes nothing does not wait for it. An instance of our own, because the
    # package's is shared by the process, and its languages are narrowed here to those with a code of two
    # letters: a dialect then counts for the language that it is of.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    judge = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    judge.set_languages([label for label in judge.labels if len(label) == 2 or label == _NOTHING])
    return judge
