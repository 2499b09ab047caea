"""Whether a peer says what we say: same prompts, same adapters, greedy.

Where our answer is constrained and the peer's is not, the peer is asked, outside the clock, which of
the ids that may come first it likes best. Free text is compared as it was generated. Engines round
differently, so a share of the near ties goes the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from torch import Tensor

from benchmarks.serving.clients import Answered
from benchmarks.serving.workload import WORK
from fleet.engine.constraint import ConstraintCompiler

BATCH = 32
FIRST_TOKENS = 16

Prefer = Callable[[Sequence[int], Sequence[Sequence[int]], Sequence[Tensor]], list[int]]
"""Experts, prompts and allowed ids to the indices of the ids that the peer likes best."""


def same_choices(
    answers: Sequence[Answered], prefer: Prefer, compiler: ConstraintCompiler, *, expert: Callable[[int], int]
) -> float:
    """Share of our constrained answers whose first choice is the peer's too.

    ``expert`` names the peer's expert for ours: another one's answers show what the check can see.
    """
    same = 0
    for start in range(0, len(answers), BATCH):
        chunk = answers[start : start + BATCH]
        prompts, allowed = [], []
        for answer in chunk:
            constraint = compiler.start(WORK[answer.job.kind].constraint, answer.job.text)
            prompts.append([*answer.job.prompt, *constraint.forced()])
            ids = constraint.allowed()
            assert ids is not None
            allowed.append(ids)
        liked = prefer([expert(answer.job.expert) for answer in chunk], prompts, allowed)
        same += sum(answer.choice == choice for answer, choice in zip(chunk, liked, strict=True))
    return same / len(answers)


def same_texts(ours: Sequence[Answered], theirs: Sequence[Answered], text: Tensor) -> float:
    """Share of the jobs whose answers begin with the same ``FIRST_TOKENS`` tokens.

    Only as far as the peer keeps to ``text``, a mask of ids: ours does not write control tokens.
    """
    other = {answer.job.number: answer.ids[:FIRST_TOKENS] for answer in theirs}
    same = 0
    for answer in ours:
        begins = tuple(takewhile(lambda token: bool(text[token]), other[answer.job.number]))
        same += answer.ids[: len(begins)] == begins
    return same / len(ours)
