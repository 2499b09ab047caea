"""What the service counts and measures, as Prometheus reads it. Knows nothing of routes or backends.

A registry of its own, so that two interfaces in one process do not add up. Labels have few values: tasks
that have an expert, codes of ours, names of keys; never a word of a job, a key, or a name that a client made
up. The counts are this process's; Prometheus takes one that begins anew for what it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet.job import Answer, Job, Result
from fleet.routing.shift import ShiftState
from fleet.web.backend import ServiceState

NONE = "-"
"""The task of a job that no expert was asked about, the key of a request that came without."""
UNASKED = {"clarify": "clarified", "compound": "compound", "abstain": "abstained", "route": "abstained"}
"""What becomes of a job of which nobody is asked, by what was decided."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
STAGE_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Fewer, as there are as many for every stage of every task."""


class Metrics:
    """Everything that is counted where results pass, and the gauges that a state gives."""

    def __init__(self) -> None:
        # Else every counter brings a second series along that says when it began.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._jobs = Counter(
            "fleet_jobs",
            "Jobs that have ended, once for each expert that was asked: answered, cancelled, or the code of "
            "the failure; clarified, compound and abstained are of no expert.",
            ["task", "outcome"],
            registry=registry,
        )
        self._decisions = Counter(
            "fleet_decisions",
            "What was decided on jobs (forced: the job named its task), by the likeliest task.",
            ["task", "decision"],
            registry=registry,
        )
        self._job_seconds = Histogram(
            "fleet_job_seconds",
            "From a job's arrival at a replica to its answer.",
            ["task"],
            buckets=SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "fleet_stage_seconds",
            "Of that, each stage, waiting for the rest of its batch included.",
            ["task", "stage"],
            buckets=STAGE_SECONDS,
            registry=registry,
        )
        self._input_tokens = Counter(
            "fleet_input_tokens", "Tokens of answered jobs.", ["task"], registry=registry
        )
        self._output_tokens = Counter(
            "fleet_output_tokens", "Tokens of answers.", ["task"], registry=registry
        )
        self._requests = Counter(
            "fleet_http_requests",
            "Requests, by the name of the key they came with.",
            ["route", "status", "key"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "fleet_http_request_seconds",
            "From a request's first byte to the last of its response.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._gauges = _Gauges()
        self.registry.register(self._gauges)
        self._known: set[str] = set()
        """Tasks that have or had an expert."""

    def page(self, state: ServiceState | None, accept: str = "") -> tuple[bytes, str]:
        """All of it and its media type; ``state`` is None when it could not be had."""
        if state is not None:
            self._known.update(expert.task for expert in state.experts)
        self._gauges.state = state
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type

    def request(self, route: str, status: int, key: str, seconds: float) -> None:
        self._requests.labels(route, str(status), key).inc()
        self._request_seconds.labels(route).observe(seconds)

    def ended(self, job: Job, result: Result) -> None:
        """What came of a job."""
        decision = result.decision
        if decision is not None:
            self._known.update(decision.tasks)
            likeliest = next(iter(decision.tasks or [task for task, _ in decision.scores[:1]]), NONE)
            self._decisions.labels(likeliest, "forced" if job.tasks else decision.kind).inc()
        for answer in result.answers:
            self._answered(answer)
        for task, code in result.failed_codes.items():
            self._known.add(task)
            self._jobs.labels(task, code).inc()
        if result.answers or result.failed_codes:
            return
        if result.code is not None:
            self._unasked(job, result.code)
        elif decision is not None:
            self._jobs.labels(NONE, UNASKED[decision.kind]).inc()

    def cancelled(self, job: Job) -> None:
        """Nobody waits for it any more."""
        self._unasked(job, "cancelled")

    def _answered(self, answer: Answer) -> None:
        task, receipt = answer.task, answer.receipt
        self._known.add(task)
        self._jobs.labels(task, "answered").inc()
        self._input_tokens.labels(task).inc(receipt.input_tokens)
        self._output_tokens.labels(task).inc(receipt.output_tokens)
        for stage, milliseconds in receipt.milliseconds.items():
            self._stage_seconds.labels(task, stage).observe(milliseconds / 1000)
        self._job_seconds.labels(task).observe(sum(receipt.milliseconds.values()) / 1000)

    def _unasked(self, job: Job, outcome: str) -> None:
        """Of the tasks that the job names, if there are such; a client may have made the name up."""
        for task in [task for task in job.tasks if task in self._known] or [NONE]:
            self._jobs.labels(task, outcome).inc()


class _Gauges(Collector):
    """What a state says; every family is there, with no sample when there is no state."""

    def __init__(self) -> None:
        self.state: ServiceState | None = None

    def collect(self) -> Iterator[Metric]:
        state = self.state
        yield GaugeMetricFamily(
            "fleet_state_known", "Whether the service could say how it is.", 0.0 if state is None else 1.0
        )
        whole = {
            "fleet_replicas": "Replicas that can take jobs.",
            "fleet_waiting_jobs": "Jobs that have come and have no result yet.",
            "fleet_registry_reachable": "Whether the registry answers; what was known last goes on.",
            "fleet_start_time_seconds": "When the service began to follow the registry.",
        }
        values = () if state is None else _whole(state)
        for (name, about), value in zip(whole.items(), values or [None] * len(whole), strict=True):
            family = GaugeMetricFamily(name, about)
            if value is not None:
                family.add_metric([], value)
            yield family
        yield from _by_task(state)
        router = GaugeMetricFamily("fleet_router_info", "The router that decides.", labels=["version"])
        if state is not None and state.router_version is not None:
            router.add_metric([str(state.router_version)], 1.0)
        yield router
        yield from _decided(None if state is None else state.decisions)


def _whole(state: ServiceState) -> tuple[float, ...]:
    return (state.replicas, state.waiting, float(not state.registry_fault), state.started)


def _by_task(state: ServiceState | None) -> Iterator[Metric]:
    ready = GaugeMetricFamily(
        "fleet_expert_ready_replicas",
        "Replicas on which the expert is in memory and checked.",
        labels=["task"],
    )
    refused = GaugeMetricFamily(
        "fleet_expert_quarantined", "Whether the wanted version must not answer somewhere.", labels=["task"]
    )
    info = GaugeMetricFamily(
        "fleet_expert_info", "The version that answers.", labels=["task", "version", "wanted", "digest"]
    )
    queued = GaugeMetricFamily("fleet_queued_jobs", "Jobs that wait or run, by expert.", labels=["task"])
    for expert in () if state is None else state.experts:
        ready.add_metric([expert.task], expert.ready_on)
        refused.add_metric([expert.task], float(expert.state == "quarantined"))
        version = NONE if expert.version is None else str(expert.version)
        info.add_metric([expert.task, version, str(expert.wanted), expert.digest[:12]], 1.0)
        # A replica also counts those that name a task which is not there.
        queued.add_metric([expert.task], 0 if state is None else state.queued.get(expert.task, 0))
    yield from (ready, refused, info, queued)


def _decided(shift: ShiftState | None) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("fleet_routed_jobs_hour", "Jobs of the last hour that the router decided.")
    shares = GaugeMetricFamily(
        "fleet_undecided_share",
        "Of them, the share that it abstained on, asked back, or that needed several tasks.",
        labels=["decision"],
    )
    fitted = GaugeMetricFamily(
        "fleet_abstained_fitted_share", "Share of abstentions that its fit leaves room for.", labels=["bound"]
    )
    alarm = GaugeMetricFamily(
        "fleet_abstained_alarm", "Whether the share of abstentions has left that range.", labels=["side"]
    )
    if shift is not None:
        jobs.add_metric([], shift.jobs)
        of = {"abstain": shift.share, "clarify": shift.clarified_share, "compound": shift.compound_share}
        for decision, share in of.items():
            if share is not None:
                shares.add_metric([decision], share)
        for bound, value in (("low", shift.low), ("high", shift.high)):
            if value is not None:
                fitted.add_metric([bound], value)
        for side in ("above", "below"):
            alarm.add_metric([side], float(shift.alarm == side))
    yield from (jobs, shares, fitted, alarm)
