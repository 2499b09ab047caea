"""From outcomes to registered, judged versions. Knows nothing of how they were trained or are served.

A version is registered as soon as its outcome is there; the verdicts of one campaign are found
together at its end, because the false-discovery control is over all of them.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fleet.assignment import TaskOutcome
from fleet.engine.adapters import AdapterBank
from fleet.engine.base import Base
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.evaluate import answer_examples, measure, measure_perplexity, row_losses
from fleet.engine.expert import check_fits, read_expert
from fleet.engine.specs import Example
from fleet.errors import ArtifactError, FleetError
from fleet.manifest import Manifest
from fleet.recipe import task_spec
from fleet.registry.lifecycle import settle
from fleet.registry.policy import Case, Evidence, Policy, Verdict, decide_all
from fleet.registry.store import Registry, RunRecord
from fleet.registry.version import VersionInfo
from fleet.storage import Storage

log = logging.getLogger(__name__)

VERDICT_TAG = "verdict"
"""Set on every version that has been judged."""


@dataclass(frozen=True, slots=True)
class Release:
    """One new version and what the policy says of it."""

    outcome: TaskOutcome
    info: VersionInfo
    verdict: Verdict
    champion: Evidence | None
    """The champion it was held against, on the same rows."""


def register(
    registry: Registry,
    storage: Storage,
    policy: Policy,
    outcome: TaskOutcome,
    base_name: str,
    fields: Sequence[str],
) -> VersionInfo:
    """The version of this outcome, made if it is not there yet; never twice for one training."""
    known = registry.find(outcome.task, training_key=outcome.key)
    if known is not None:
        return known
    record = RunRecord(
        params=outcome.params,
        metrics=outcome.metrics,
        curves=outcome.curves,
        tables={"evaluation": outcome.table},
        tags=outcome.tags,
    )
    with tempfile.TemporaryDirectory(prefix="fleet-register-") as scratch:
        folder = storage.local(outcome.artifact)
        if folder is None:
            folder = Path(scratch) / "artifact"
            storage.download(outcome.artifact, folder)
        # A bad copy must not become a version; reading checks the digest.
        read_expert(folder, digest=outcome.digest)
        tags = {**policy.tags, **outcome.tags}
        return registry.log_version(outcome.task, folder, record, tags, fields=fields, base=base_name)


def judge(
    registry: Registry,
    policy: Policy,
    made: Sequence[tuple[TaskOutcome, VersionInfo]],
    manifests: Mapping[str, Manifest],
    evaluation: Mapping[str, Sequence[Example]],
    *,
    base: Callable[[], Base],
    cache: Path,
) -> list[Release]:
    """Hold every new version against its champion, baseline and floor, and settle the aliases.

    ``evaluation`` holds each task's evaluation rows, for champions that were scored on other ones.
    """
    champions = {outcome.task: registry.champion(outcome.task) for outcome, _ in made}
    cases: list[Case] = []
    for outcome, info in made:
        manifest = manifests[outcome.task]
        champion = champions[outcome.task]
        evidence = None
        if champion is not None and champion.version != info.version:
            evidence = _champion_evidence(
                registry, champion, manifest, outcome, evaluation[outcome.task], base, cache
            )
        cases.append(
            Case(
                task=outcome.task,
                metric=manifest.metric,
                candidate=Evidence(
                    f"version {info.version}",
                    outcome.metrics[manifest.metric],
                    tuple(outcome.scores),
                    outcome.rows_digest,
                ),
                champion=evidence,
                baseline=_baseline(manifest, outcome),
                floor=manifest.evaluation.floor,
            )
        )
    releases = []
    for (outcome, info), case, verdict in zip(made, cases, decide_all(cases, policy), strict=True):
        champion = champions[outcome.task]
        against = None if champion is None else champion.version
        held = settle(registry, info, verdict, judged_against=against, by="policy")
        releases.append(Release(outcome, info, held, case.champion))
    return releases


def _baseline(manifest: Manifest, outcome: TaskOutcome) -> Evidence | None:
    value = outcome.metrics.get(f"baseline_{manifest.metric}")
    if value is None:
        return None
    return Evidence("baseline", value, tuple(outcome.baseline_scores), outcome.rows_digest)


def _champion_evidence(
    registry: Registry,
    champion: VersionInfo,
    manifest: Manifest,
    outcome: TaskOutcome,
    rows: Sequence[Example],
    base: Callable[[], Base],
    cache: Path,
) -> Evidence:
    """The champion's scores on the candidate's rows: those it was made with, or found out now."""
    name = f"version {champion.version}"
    try:
        adapter, card = read_expert(registry.fetch(champion, cache), digest=champion.digest)
        stored = card.metrics
        if stored.get("rows_digest") == outcome.rows_digest and stored.get("metric") == manifest.metric:
            return Evidence(name, float(stored["value"]), tuple(stored["scores"]), outcome.rows_digest)
        before = Manifest.model_validate(card.manifest)
        if before.kind != manifest.kind:
            raise ArtifactError(f"it does {before.kind}, the task is {manifest.kind} now")
        spec = task_spec(before)
        loaded = base()
        check_fits(loaded, spec, card)
        bank = AdapterBank.alone(loaded.model, adapter)
        if manifest.metric == "perplexity":
            measured = measure_perplexity(*row_losses(loaded, bank, 0, spec, rows))
        else:
            given = answer_examples(loaded, bank, 0, spec, rows, ConstraintCompiler(loaded.tokenizer))
            measured = measure(manifest.metric, [row.output for row in rows], [c.value for c in given])
    except (FleetError, ValueError, TypeError) as error:
        # A champion that cannot be evaluated (altered, other labels, other base) keeps its place.
        log.warning("%s of %s cannot be evaluated: %s", name, outcome.task, error)
        return Evidence(name, float(np.nan), (), outcome.rows_digest)
    return Evidence(name, measured.value, measured.rows, outcome.rows_digest)
