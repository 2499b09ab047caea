"""Who becomes champion: a pure judgement on scores. Knows nothing of MLflow, models or files.

A candidate is compared with the champion row by row on the same evaluation rows: exact McNemar
for right-or-wrong scores (McNemar 1947, Psychometrika 12), a paired permutation test otherwise,
both one-sided, with a paired percentile bootstrap interval of the difference. Over a train-all
the p-values are adjusted together (Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57), so a fleet
of a hundred equal experts does not promote five of them by luck.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fleet.declared import Declared, Section, load_declared

_RESAMPLES = 4999
_SEED = 0

Promotion = Literal["promote", "hold"]


class Gate(Section):
    """What a new version must show."""

    min_effect: float = Field(default=0.05, ge=0, le=1)
    """Smallest improvement over the champion worth a promotion: mean difference of the row scores
    (0.05 = five points); for perplexity the share by which it falls (0.05 = five per cent lower)."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Largest p-value of the paired test against the champion."""
    require_floor: bool = True
    """Whether the manifest's ``evaluation.floor`` binds."""
    must_beat_baseline: bool = True
    """Whether a better figure than the baseline trained beside it is needed, where there is one."""
    false_discovery_rate: float = Field(default=0.10, gt=0, lt=1)
    """Largest adjusted p-value when several tasks are judged together."""


class AutoPromote(Section):
    """What happens by itself once the gate is passed; ``hold`` leaves it to a person."""

    first: Promotion = "promote"
    """A task's first version, with no champion to compare with."""
    better: Promotion = "promote"
    """A version that is better than the champion."""


class Aliases(Section):
    """Names of the MLflow aliases."""

    champion: str = Field(default="champion", pattern=r"^[a-z][a-z0-9-]*$")
    """The version that answers."""
    challenger: str = Field(default="challenger", pattern=r"^[a-z][a-z0-9-]*$")
    """The newest version that is not champion."""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.champion == self.challenger:
            raise ValueError("champion and challenger must be different aliases")
        return self


class Retention(Section):
    """Which versions ``prune`` may delete."""

    keep: int = Field(default=20, ge=1)
    """Newest versions kept per task; versions with an alias or in the line of champions always stay."""


class RouterGate(Section):
    """What a router must withstand to be made champion by itself; measured at every fit. 1 is no bound."""

    max_flip_rate: float = Field(default=1.0, ge=0, le=1)
    """Largest share of slightly changed jobs (typos, case, punctuation, ...) whose decision may change."""
    max_astray_rate: float = Field(default=1.0, ge=0, le=1)
    """Largest share of them that may be routed to a wrong task where the unchanged job was not."""
    max_attack_success: float = Field(default=1.0, ge=0, le=1)
    """Largest share of the shipped injections that may steer a job to the expert they name."""

    def faults(self, metrics: Mapping[str, float]) -> list[str]:
        """What a router with these figures does not withstand; a figure that is missing binds nothing."""
        bounds = (
            ("flip_rate", self.max_flip_rate),
            ("astray_rate", self.max_astray_rate),
            ("attack_success", self.max_attack_success),
        )
        return [
            f"{name} {metrics[name]:.3f} is above router.max_{name} {bound:g}"
            for name, bound in bounds
            if metrics.get(name, 0.0) > bound
        ]


class Policy(Declared):
    """``registry/policy.yaml``."""

    gate: Gate = Gate()
    auto_promote: AutoPromote = AutoPromote()
    router: RouterGate = RouterGate()
    aliases: Aliases = Aliases()
    tags: dict[str, str] = Field(default_factory=dict)
    """Put on every version as they are, such as ``owner``."""
    retention: Retention = Retention()


def load_policy(path: Path, *, name: str = "registry/policy.yaml") -> Policy:
    """Read ``path``; a missing file is the default policy. Raises ``ManifestError`` with all faults."""
    return load_declared(path, name, Policy) if path.is_file() else Policy()


@dataclass(frozen=True, slots=True)
class Evidence:
    """How one contender did on the evaluation rows, in their order."""

    name: str
    """For the reader: ``version 4``, ``baseline``."""
    value: float
    """The task's metric over all rows."""
    scores: tuple[float, ...]
    """One score per row: 0 or 1 for right or wrong, a share, or for perplexity the row's nats per token."""
    rows_digest: str
    """Digest of the rows, equal for contenders that may be compared."""


@dataclass(frozen=True, slots=True)
class Case:
    """One task's candidate with everything it is held against."""

    task: str
    metric: str
    candidate: Evidence
    champion: Evidence | None = None
    """None: there is none. A champion that cannot be evaluated has no scores, and holds its place."""
    baseline: Evidence | None = None
    floor: float | None = None
    """For perplexity the largest value allowed, for every other metric the smallest."""

    @property
    def lower_is_better(self) -> bool:
        return self.metric == "perplexity"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on one candidate; ``passed`` is the gate, ``promote`` what follows by itself."""

    promote: bool
    passed: bool
    reasons: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def word(self) -> str:
        return "promoted" if self.promote else "passed" if self.passed else "held"

    def __str__(self) -> str:
        return f"{self.word}: {'; '.join(self.reasons)}"

    def tags(self) -> dict[str, str]:
        """The verdict as tags of a version."""
        figures = {f"verdict.{name}": f"{value:.6g}" for name, value in self.figures.items()}
        return {"verdict": self.word, "verdict.reasons": "; ".join(self.reasons), **figures}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired test on the same rows; positive ``effect`` means that the candidate is better."""

    effect: float
    low: float
    high: float
    """95 % bootstrap interval of ``effect``."""
    p: float
    """One-sided: how often luck alone would look this good."""
    wins: int
    losses: int
    binary: bool


def compare(
    candidate: Sequence[float], champion: Sequence[float], *, lower_is_better: bool = False
) -> Comparison:
    """Test the row scores ``[rows]`` of two contenders.

    With ``lower_is_better`` the scores are nats per token (the logarithm of the row's perplexity),
    and the effect is the share by which the rows' perplexities fall on geometric average. Raises
    ``ValueError`` for unequal lengths, no rows, or scores that are not finite.
    """
    from scipy import stats

    mine, theirs = (np.asarray(scores, dtype=np.float64) for scores in (candidate, champion))
    if mine.shape != theirs.shape or mine.size == 0:
        raise ValueError(f"a paired test needs equally many rows, got {mine.size} and {theirs.size}")
    if not (np.isfinite(mine).all() and np.isfinite(theirs).all()):
        raise ValueError("every score must be finite")
    difference: NDArray[np.float64] = theirs - mine if lower_is_better else mine - theirs
    binary = not lower_is_better and bool(np.isin([mine, theirs], (0.0, 1.0)).all())
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    if wins + losses == 0:
        return Comparison(0.0, 0.0, 0.0, 1.0, 0, 0, binary)
    rng = np.random.default_rng(_SEED)
    if binary:
        p = float(stats.binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue)
    else:
        p = float(
            stats.permutation_test(
                (difference, np.zeros_like(difference)),
                lambda one, other, axis: np.mean(one - other, axis=axis),
                permutation_type="samples",
                alternative="greater",
                vectorized=True,
                n_resamples=_RESAMPLES,
                batch=100,
                rng=rng,
            ).pvalue
        )
    low, high = _interval(difference, rng)
    ends = [float(difference.mean()), low, high]
    effect, low, high = (1 - float(np.exp(-end)) for end in ends) if lower_is_better else ends
    return Comparison(effect, low, high, p, wins, losses, binary)


def _interval(difference: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    if difference.size < 2:
        return float(difference[0]), float(difference[0])
    from scipy import stats

    interval = stats.bootstrap(
        (difference,), np.mean, n_resamples=_RESAMPLES, method="percentile", batch=500, rng=rng
    ).confidence_interval
    return float(interval.low), float(interval.high)


def decide(case: Case, policy: Policy) -> Verdict:
    """Judge one candidate alone."""
    return decide_all([case], policy)[0]


def decide_all(cases: Sequence[Case], policy: Policy) -> list[Verdict]:
    """Judge the candidates of one train-all together, in the order given."""
    compared = [_against_champion(case) for case in cases]
    tested = [index for index, item in enumerate(compared) if isinstance(item, Comparison)]
    adjusted: dict[int, float] = {}
    if tested:
        from scipy.stats import false_discovery_control

        values = [item.p for item in compared if isinstance(item, Comparison)]
        adjusted = dict(zip(tested, map(float, false_discovery_control(values)), strict=True))
    return [
        _judge(case, item, adjusted.get(index), len(tested), policy)
        for index, (case, item) in enumerate(zip(cases, compared, strict=True))
    ]


def _against_champion(case: Case) -> Comparison | str | None:
    """The comparison, why there is none, or None without a champion."""
    champion = case.champion
    if champion is None:
        return None
    if not champion.scores:
        return f"{champion.name}, the champion, could not be evaluated, so nothing shows an improvement"
    if champion.rows_digest != case.candidate.rows_digest:
        return f"{champion.name}, the champion, was scored on other evaluation rows; score both on the same"
    try:
        return compare(case.candidate.scores, champion.scores, lower_is_better=case.lower_is_better)
    except ValueError as error:
        return f"cannot be compared with {champion.name}, the champion: {error}"


def _judge(
    case: Case, compared: Comparison | str | None, adjusted: float | None, together: int, policy: Policy
) -> Verdict:
    gate = policy.gate
    figures: dict[str, float] = {case.metric: case.candidate.value}
    checks = [_finite(case)]
    if gate.require_floor:
        checks.append(_floor(case, figures))
    if gate.must_beat_baseline:
        checks.append(_baseline(case, figures))
    if isinstance(compared, str):
        checks.append((False, compared))
    elif compared is not None and adjusted is not None:
        checks += _champion(case, compared, adjusted, together, gate, figures)
    passed = all(fine for fine, _ in checks)
    reasons = [why for fine, why in checks if why and (passed or not fine)]
    if compared is None:
        rule, kind = policy.auto_promote.first, "first version, there is no champion yet"
        if passed:
            reasons.append(kind)
    else:
        rule = policy.auto_promote.better
    if passed and rule == "hold":
        reasons.append("the policy leaves this promotion to a person (fleet promote)")
    return Verdict(passed and rule == "promote", passed, tuple(reasons), figures)


Check = tuple[bool, str]


def _finite(case: Case) -> Check:
    value, rows = case.candidate.value, len(case.candidate.scores)
    fine = bool(np.isfinite(value)) and rows > 0
    return fine, "" if fine else f"{case.metric} is {value} over {rows} rows"


def _better(case: Case, value: float, than: float) -> bool:
    return value < than if case.lower_is_better else value > than


def _floor(case: Case, figures: dict[str, float]) -> Check:
    if case.floor is None:
        return True, ""
    figures["floor"] = case.floor
    value = case.candidate.value
    fine = value == case.floor or _better(case, value, case.floor)
    limit = "ceiling" if case.lower_is_better else "floor"
    return fine, f"{case.metric} {value:.3f} {'meets' if fine else 'misses'} the {limit} {case.floor:.3f}"


def _baseline(case: Case, figures: dict[str, float]) -> Check:
    baseline = case.baseline
    if baseline is None:
        return True, ""
    if baseline.rows_digest != case.candidate.rows_digest:
        return False, "the baseline was scored on other evaluation rows; score both on the same"
    figures["baseline"] = baseline.value
    fine = _better(case, case.candidate.value, baseline.value)
    word = "beats" if fine else "does not beat"
    return fine, f"{case.metric} {case.candidate.value:.3f} {word} the baseline's {baseline.value:.3f}"


def _champion(
    case: Case, seen: Comparison, adjusted: float, together: int, gate: Gate, figures: dict[str, float]
) -> list[Check]:
    champion = case.champion
    assert champion is not None
    figures.update(
        champion=champion.value, effect=seen.effect, effect_low=seen.low, effect_high=seen.high,
        p=seen.p, p_adjusted=adjusted, wins=seen.wins, losses=seen.losses,
    )  # fmt: skip
    rows = len(case.candidate.scores)
    value_fine = not _better(case, champion.value, case.candidate.value)
    effect_fine = seen.effect >= gate.min_effect
    p_fine = seen.p <= gate.alpha
    tallied = f"better on {seen.wins} and worse on {seen.losses} of {rows} rows than {champion.name}"
    family = f", {adjusted:.3f} adjusted over {together} tasks" if together > 1 else ""
    return [
        (
            value_fine,
            f"{case.metric} {case.candidate.value:.3f} against {champion.name}'s {champion.value:.3f}",
        ),
        (
            effect_fine,
            f"improvement {seen.effect:+.3f} (95 % interval {seen.low:+.3f} to {seen.high:+.3f}), "
            f"asked {gate.min_effect:.3f}",
        ),
        (p_fine, f"{tallied}, p = {seen.p:.3f}{family}, asked {gate.alpha:.3f}"),
        (
            adjusted <= gate.false_discovery_rate or not p_fine,
            ""
            if adjusted <= gate.false_discovery_rate
            else f"among {together} tasks judged together the adjusted p = {adjusted:.3f} is over "
            f"{gate.false_discovery_rate:.3f}",
        ),
    ]
