"""Each job's next token, out of the hidden states of a batch. Knows nothing of constraints or schedules.

Only the allowed rows of the head are multiplied, those of all jobs with few of them in one product; where
the whole head is needed, its logits stay on the device and only what was chosen leaves it. On a GPU the
host otherwise waits for every job in turn, or for a megabyte of logits a job.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fleet.engine.gemma import Gemma
from fleet.engine.specs import TextSpec

__all__ = ["Ask", "Choice", "choose"]

FEW = 256
"""Up to so many allowed tokens a job's rows of the head are multiplied together with other jobs'."""
TOGETHER = 128
"""Jobs whose logits over many tokens are held at a time: 134 MB in fp32 over 262,144."""
KEPT_LOGITS = 256
"""Logits kept per branching point, at most."""

LEAST_TEMPERATURE = 1e-6
"""Below it the likeliest token is as good as certain."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What one job may say next, and how it is drawn."""

    allowed: Tensor | None
    """[k] int64 on the host: the ids that may come; the same object where jobs share them. None is many."""
    mask: Tensor | None
    """[vocabulary] bool on the host, where ``allowed`` is None; of the same storage where jobs share it."""
    temperature: float = 1.0
    """Calibration of the probability; does not change the choice."""
    sampling: TextSpec | None = None
    """How free text is drawn; None takes the likeliest token, and gives the branching point."""
    generator: torch.Generator | None = None
    """For sampling above temperature 0; on the host."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One job's next token."""

    token: int | None
    """None when the logits hold NaN or infinity."""
    log_probability: float
    """Calibrated, renormalised over what was allowed."""
    rows: int
    """Head rows multiplied for it."""
    branch: tuple[Tensor, int] | None
    """The (largest) logits of the allowed tokens on the host, and the index of the chosen one."""


def choose(model: Gemma, h: Tensor, asks: Sequence[Ask]) -> list[Choice]:
    """A token for each row of normed ``h [B, D]``, in the order given."""
    found: dict[int, Choice] = {}
    few = [i for i, ask in enumerate(asks) if ask.allowed is not None and len(ask.allowed) <= FEW]
    if few:
        found.update(zip(few, _among_few(model, h[few], [asks[i] for i in few]), strict=True))
    alike: dict[tuple[int, int], list[int]] = {}
    for i, ask in enumerate(asks):
        if i not in found:
            mask = 0 if ask.mask is None else ask.mask.data_ptr()
            alike.setdefault((0 if ask.allowed is None else id(ask.allowed), mask), []).append(i)
    for members in alike.values():
        for start in range(0, len(members), TOGETHER):
            part = members[start : start + TOGETHER]
            found.update(zip(part, _among_many(model, h[part], [asks[i] for i in part]), strict=True))
    return [found[i] for i in range(len(asks))]


def _among_few(model: Gemma, h: Tensor, asks: Sequence[Ask]) -> list[Choice]:
    """All jobs against all their rows of the head, each then its own: one product and one transfer."""
    distinct = {id(ask.allowed): ask.allowed for ask in asks if ask.allowed is not None}
    starts = dict(zip(distinct, accumulate(map(len, distinct.values()), initial=0), strict=False))
    logits = model.logits(h, torch.cat(list(distinct.values())).to(h.device))
    sizes = torch.tensor([len(distinct[id(ask.allowed)]) for ask in asks])
    if len(distinct) > 1:
        own = torch.minimum(torch.arange(int(sizes.max())), sizes[:, None] - 1)
        own += torch.tensor([starts[id(ask.allowed)] for ask in asks])[:, None]
        logits = logits.gather(1, own.to(h.device))
    return [_pick(row[:size], ask) for row, size, ask in zip(logits.cpu(), sizes.tolist(), asks, strict=True)]


def _pick(scores: Tensor, ask: Ask) -> Choice:
    """The choice from one job's logits ``[k]`` on the host."""
    if not math.isfinite(float(scores.sum())):
        return Choice(None, math.nan, len(scores), None)
    if ask.generator is None or ask.sampling is None:
        index = int(scores.argmax())
    else:
        index = _sample(scores, ask.sampling, ask.generator)
    calibrated = scores if ask.temperature == 1 else scores / ask.temperature
    log_probability = float(calibrated[index] - calibrated.logsumexp(-1))
    token = index if ask.allowed is None else int(ask.allowed[index])
    branch = (scores, index) if ask.sampling is None else None
    return Choice(token, log_probability, len(scores), branch)


def _among_many(model: Gemma, h: Tensor, asks: Sequence[Ask]) -> list[Choice]:
    """Jobs that may say the same many tokens: all is done where the logits are."""
    allowed, mask = asks[0].allowed, asks[0].mask
    scores = model.logits(h, None if allowed is None else allowed.to(h.device))
    rows = scores.shape[1]
    finite = scores.sum(-1).isfinite()
    if mask is not None:
        # A head may have more rows than the tokenizer has tokens; none of those may be chosen.
        scores = scores[:, : len(mask)].masked_fill_(~mask[:rows].to(h.device), -math.inf)
    # NaN would end a draw with an error, and it concerns one job alone.
    scores = torch.where(finite[:, None], scores, 0.0) if any(ask.generator for ask in asks) else scores
    index = scores.argmax(-1)
    for i, ask in enumerate(asks):
        if ask.generator is not None and ask.sampling is not None:
            index[i] = _sample(scores[i].cpu(), ask.sampling, ask.generator)
    calibrated = scores
    if any(ask.temperature != 1 for ask in asks):
        calibrated = scores / torch.tensor([ask.temperature for ask in asks], device=h.device)[:, None]
    likely = calibrated.gather(1, index[:, None])[:, 0] - calibrated.logsumexp(-1)
    branches = _branches(scores, index) if any(ask.sampling is None for ask in asks) else None
    # Ids are below 2^53, so one transfer of doubles takes all.
    plain = torch.stack([finite.double(), index.double(), likely.double()]).tolist()
    choices = []
    for i, (ask, good, place, log_probability) in enumerate(zip(asks, *plain, strict=True)):
        if not good:
            choices.append(Choice(None, math.nan, rows, None))
            continue
        token = int(place) if allowed is None else int(allowed[int(place)])
        branch = branches[i] if branches is not None and ask.sampling is None else None
        choices.append(Choice(token, log_probability, rows, branch))
    return choices


def _branches(scores: Tensor, index: Tensor) -> list[tuple[Tensor, int]]:
    """Branching points for calibration: beyond the top few the probabilities vanish."""
    top, places = scores.topk(min(KEPT_LOGITS, scores.shape[1]))
    # The chosen token is the likeliest here, or drawn from beyond those that are kept.
    found = (places == index[:, None]).int()
    where = torch.where(found.any(-1), found.argmax(-1), top.shape[1] - 1)
    return list(zip(top.cpu(), where.tolist(), strict=True))


def _sample(scores: Tensor, sampling: TextSpec, generator: torch.Generator) -> int:
    """Nucleus sampling (arXiv:1904.09751) at a temperature."""
    # The largest is 0 before it is divided: next to no temperature makes no infinity; and what is nothing
    # in fp32 makes no NaN.
    temperature = max(sampling.temperature, LEAST_TEMPERATURE)
    probabilities = torch.softmax((scores - scores.max()) / temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        kept = max(1, int((ordered.cumsum(0) - ordered < sampling.top_p).sum()))
        probabilities[order[kept:]] = 0.0
    # An exponential race (Gumbel-max, arXiv:1411.0030), each token with noise of its own: in other company
    # rounding may swap two that are almost alike, and a draw over the sorted ones would take the other.
    noise = torch.empty_like(probabilities).exponential_(generator=generator)
    return int((probabilities / noise).argmax())
