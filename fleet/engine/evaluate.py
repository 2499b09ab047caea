"""How good an expert is: metrics with intervals, row scores for paired tests, calibration.

Metrics are functions of wanted and given answers. ``perplexity`` alone needs the model and is lower
for better. Intervals are percentile bootstraps over rows (Efron 1979). Knows nothing of policies.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fleet.engine.adapters import AdapterBank
from fleet.engine.base import Base
from fleet.engine.batch import Batch
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.decode import Completion, Request, Scheduler
from fleet.engine.gemma import Gemma
from fleet.engine.loss import head_loss
from fleet.engine.prompt import Renderer, predicting, render_job
from fleet.engine.specs import Example, Metric, TaskSpec, TextSpec
from fleet.engine.trunk import batches, run_trunk
from fleet.errors import TrainingError

RESAMPLES = 1000
ROWS_AT_ONCE = 256
LOWER_IS_BETTER: frozenset[str] = frozenset({"perplexity"})

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric over a set of rows with its 95 % interval; ``rows`` holds each row's own score.

    For ``perplexity`` a row's score is its mean negative log-likelihood in nats per token.
    """

    metric: Metric
    value: float
    low: float
    high: float
    rows: tuple[float, ...]

    @property
    def higher_is_better(self) -> bool:
        return self.metric not in LOWER_IS_BETTER


def answer_examples(
    base: Base,
    bank: AdapterBank | None,
    slot: int,
    spec: TaskSpec,
    examples: Sequence[Example],
    compiler: ConstraintCompiler,
    *,
    temperature: float = 1.0,
    decoder: Gemma | None = None,
) -> list[Completion]:
    """The expert's answers to the examples' jobs, in their order, through the scheduler that serves.

    ``decoder`` is the scheduler's: lighter weights for all tokens but the first.

    Raises ``TrainingError`` when the expert fails on a row (NaN).
    """
    completions: list[Completion] = []
    # In chunks: the trunk states of all rows at once would be seven kilobytes a token.
    for start in range(0, len(examples), ROWS_AT_ONCE):
        chunk = examples[start : start + ROWS_AT_ONCE]
        completions += _answer_chunk(base, bank, slot, spec, chunk, compiler, temperature, decoder)
    for number, completion in enumerate(completions, 1):
        if completion.error:
            raise TrainingError(f"{spec.name}: {completion.error} on row {number}")
    return completions


def _answer_chunk(
    base: Base,
    bank: AdapterBank | None,
    slot: int,
    spec: TaskSpec,
    examples: Sequence[Example],
    compiler: ConstraintCompiler,
    temperature: float,
    decoder: Gemma | None,
) -> list[Completion]:
    renderer = Renderer.of(base.tokenizer)
    depth = spec.adapter.layers[0]
    texts = [render_job(spec.prompt, example.fields) for example in examples]
    states = run_trunk(base.model, depth, [renderer.job_ids(text) for text in texts])
    suffix = tuple(renderer.suffix_ids(spec.prompt.suffix))
    requests = [
        Request(
            job_id=str(i),
            state=state,
            suffix=suffix,
            constraint=compiler.start(spec.constraint, text),
            slot=slot,
            max_output_tokens=spec.max_output_tokens,
            first_layer=depth,
            temperature=temperature,
            sampling=spec.constraint if isinstance(spec.constraint, TextSpec) else None,
        )
        for i, (text, state) in enumerate(zip(texts, states, strict=True))
    ]
    return Scheduler(base.model, bank, depth, decoder=decoder).run(requests)


def row_losses(
    base: Base, bank: AdapterBank | None, slot: int, spec: TaskSpec, examples: Sequence[Example]
) -> tuple[Floats, Floats]:
    """Per row: summed negative log-likelihood (nats) of the wanted output, and its token count.

    Free text is judged over the whole vocabulary; labels and records over the tokens of these rows.
    """
    model = base.model if bank is None else bank.model(base.model, slot)
    renderer = Renderer.of(base.tokenizer)
    rows = [renderer.row(spec, example) for example in examples]
    vocabulary = None
    if not isinstance(spec.constraint, TextSpec):
        seen = {token for row in rows for token in row.ids}
        vocabulary = torch.tensor(sorted(seen), device=model.device)
    losses, counts = np.zeros(len(rows)), np.zeros(len(rows))
    with torch.inference_mode():
        for chunk in batches([len(row.ids) for row in rows], 4096):
            lengths = [len(rows[i].ids) for i in chunk]
            batch = Batch.of(lengths, device=model.device)
            h = model.embed(torch.tensor([t for i in chunk for t in rows[i].ids], device=model.device))
            adapters = None
            if bank is not None:
                adapters = bank.select([slot] * len(chunk), batch, dtype=model.dtype)
            keep = torch.tensor(predicting([rows[i] for i in chunk]), device=model.device)
            h = model.norm(model.run(h, batch, (0, model.config.layers), adapters=adapters, keep=keep))
            for i, part in zip(chunk, h.split([rows[i].supervised for i in chunk]), strict=True):
                row = rows[i]
                wanted = torch.tensor(row.ids[row.supervised_from :], device=model.device)
                losses[i] = float(head_loss(model, part, wanted, vocabulary))
                counts[i] = row.supervised
    return losses, counts


def measure(metric: Metric, wanted: Sequence[Any], given: Sequence[Any]) -> Measured:
    """Score answers. Raises ``ValueError`` for ``perplexity``, which is not about answers."""
    if metric in ("accuracy", "exact_match"):
        scores = np.array([float(w == g) for w, g in zip(wanted, given, strict=True)])
        return _measured(metric, scores, lambda index: scores[index].mean(-1))
    if metric == "macro_f1":
        return _macro_f1(list(wanted), list(given))
    if metric == "exact_fields":
        scores = np.array([_equal_fields(w, g) for w, g in zip(wanted, given, strict=True)])
        return _measured(metric, scores, lambda index: scores[index].mean(-1))
    if metric == "span_f1":
        counts = np.array([_span_counts(w, g) for w, g in zip(wanted, given, strict=True)], dtype=float)
        return _measured(metric, _f1(counts), lambda index: _f1(counts[index].sum(-2)))
    raise ValueError(f"{metric} cannot be computed from answers")


def measure_perplexity(losses: Floats, counts: Floats) -> Measured:
    """Corpus perplexity: exp of the nats per token over all rows together."""

    def statistic(index: NDArray[np.int64]) -> Floats:
        return np.asarray(np.exp(losses[index].sum(-1) / counts[index].sum(-1)))

    return _measured("perplexity", losses / counts, statistic)


def fit_temperature(completions: Sequence[Completion], correct: Sequence[bool]) -> float:
    """Temperature (Guo et al. 2017, arXiv:1706.04599) that makes confidences match being correct.

    Minimises the log loss of "this answer is correct" over held-out completions; 1.0 when nothing
    branched or all rows agree, where there is nothing to fit.
    """
    from scipy.optimize import minimize_scalar

    if len(set(correct)) < 2 or not any(completion.branches for completion in completions):
        return 1.0

    def loss(log_t: float) -> float:
        total = 0.0
        for completion, right in zip(completions, correct, strict=True):
            p = min(max(confidence_at(completion, math.exp(log_t)), 1e-6), 1 - 1e-6)
            total -= math.log(p if right else 1 - p)
        return total

    found = minimize_scalar(loss, bounds=(math.log(0.2), math.log(10.0)), method="bounded")
    return float(math.exp(found.x))


def confidence_at(completion: Completion, temperature: float) -> float:
    """The completion's confidence had its calibration been this temperature."""
    return math.exp(
        sum(float(torch.log_softmax(logits / temperature, -1)[i]) for logits, i in completion.branches)
    )


def _measured(
    metric: Metric, rows: Floats, statistic: Callable[[NDArray[np.int64]], Floats], batch: int = 100
) -> Measured:
    from scipy.stats import bootstrap

    index = np.arange(len(rows))
    value = float(statistic(index))
    if len(rows) < 2:
        return Measured(metric, value, value, value, tuple(rows.tolist()))
    interval = bootstrap(
        (index,),
        lambda sample, axis: statistic(sample),
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=True,
        batch=batch,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Measured(metric, value, float(interval.low), float(interval.high), tuple(rows.tolist()))


def _macro_f1(wanted: list[Any], given: list[Any]) -> Measured:
    """Unweighted mean of the F1 of every label that is wanted or given."""
    labels = sorted({*wanted, *given})
    w = np.array([[x == label for label in labels] for x in wanted], dtype=float)
    g = np.array([[x == label for label in labels] for x in given], dtype=float)
    counts = np.stack([w * g, (1 - w) * g, w * (1 - g)], axis=-1)  # [rows, labels, (tp, fp, fn)]

    def statistic(index: NDArray[np.int64]) -> Floats:
        summed = counts[index].sum(-3)
        present = summed.sum(-1) > 0
        return np.asarray((_f1(summed) * present).sum(-1) / present.sum(-1))

    correct = np.array([float(x == y) for x, y in zip(wanted, given, strict=True)])
    # Bounds the resampled counts to some hundred megabytes.
    return _measured("macro_f1", correct, statistic, batch=max(1, 10_000_000 // counts.size))


def _f1(counts: Floats) -> Floats:
    """F1 of ``(..., (tp, fp, fn))``; 1 where nothing was wanted and nothing given."""
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    total = 2 * tp + fp + fn
    return np.asarray(np.where(total > 0, 2 * tp / np.maximum(total, 1), 1.0))


def _equal_fields(wanted: Any, given: Any) -> float:
    """Share of the record's top-level fields that are exactly right."""
    if not isinstance(wanted, dict) or not isinstance(given, dict):
        return float(wanted == given)
    fields = wanted.keys() | given.keys()
    missing = object()
    equal = [bool(wanted.get(f, missing) == given.get(f, missing)) for f in fields]
    return sum(equal) / max(1, len(equal))


def _span_counts(wanted: Any, given: Any) -> tuple[int, int, int]:
    w, g = Counter(_spans(wanted)), Counter(_spans(given))
    hits = sum((w & g).values())
    return hits, sum(g.values()) - hits, sum(w.values()) - hits


def _spans(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Every string of a record with the path of its field."""
    if isinstance(value, dict):
        return [span for key, inner in value.items() for span in _spans(inner, f"{path}.{key}")]
    if isinstance(value, list):
        return [span for inner in value for span in _spans(inner, path)]
    return [(path, value)] if isinstance(value, str) else []
