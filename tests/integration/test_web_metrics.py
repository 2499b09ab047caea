"""What ``/metrics`` says of a tiny fleet, through a real port, and that ``ops/`` asks for what is there."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from service import listening, live_service

from fleet.cli.main import main
from fleet.job import Job, Result
from fleet.routing.tally import STRETCH_SECONDS
from fleet.web.app import make_app
from fleet.web.backend import ServiceState
from fleet.web.keys import KeySource, add_key
from fleet.web.settings import WebSettings
from fleet.workshop import RUSSIAN, Workshop, open_shop

OPS = Path(__file__).parents[2] / "ops"
SECONDS = 60.0
NONSENSE = "SELECT * FROM t"
STORIES = ["Anna met Bo", "hello fox", "once upon a time", "a fox and a dog"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    made = open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)
    for kind in ("mood", "story"):
        made.make(kind, kind)
    made.make("broken", "mood", spoil=lambda folder: (folder / "expert.json").write_text("{}"))
    made.route({"mood": RUSSIAN, "story": STORIES})
    return made


@pytest.fixture
def client(shop: Workshop) -> Iterator[httpx.Client]:
    """Of a service that has counted nothing yet."""
    with live_service(shop) as (address, _), httpx.Client(base_url=address, timeout=SECONDS) as made:
        yield made


def jobs(client: httpx.Client, body: Any) -> httpx.Response:
    return client.post("/v1/jobs", json=body)


def families(client: httpx.Client) -> dict[str, Metric]:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {family.name: family for family in text_string_to_metric_families(response.text)}


class Told:
    """The samples of one page."""

    def __init__(self, client: httpx.Client) -> None:
        self.samples = [sample for family in families(client).values() for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float | None:
        """The one with these labels; None if there is none."""
        return next((s.value for s in self.samples if s.name == name and s.labels == labels), None)

    def labels(self, name: str, label: str) -> set[str]:
        return {sample.labels[label] for sample in self.samples if sample.name == name}


def test_jobs_are_counted_by_expert_and_outcome(client: httpx.Client) -> None:
    receipts = [jobs(client, {"text": RUSSIAN[0]}).json()["answers"][0]["receipt"]]
    several = jobs(client, {"jobs": [{"text": "Anna", "task": "mood"}] * 3, "top": 2}).json()["results"]
    receipts += [result["answers"][0]["receipt"] for result in several]
    jobs(client, {"text": "Anna", "task": ["mood", "story"]})
    jobs(client, {"text": "Anna", "task": "story", "stream": True})
    jobs(client, {"text": "a " * 3000, "task": "mood"})
    jobs(client, {"text": " "})
    broken = jobs(client, {"text": "x", "task": "broken"})
    assert broken.json()["code"] == "quarantined"
    told = Told(client)
    counted = {
        (sample.labels["task"], sample.labels["outcome"]): sample.value
        for sample in told.samples
        if sample.name == "fleet_jobs_total"
    }
    assert counted == {
        ("mood", "answered"): 5,
        ("story", "answered"): 2,
        ("mood", "bad-job"): 1,
        ("-", "bad-job"): 1,
        ("broken", "quarantined"): 1,
    }
    assert told("fleet_decisions_total", task="mood", decision="route") == 1
    assert told("fleet_decisions_total", task="mood", decision="forced") == 5
    assert told("fleet_job_seconds_count", task="mood") == 5
    assert told.labels("fleet_stage_seconds_count", "task") == {"mood", "story"}
    assert told.labels("fleet_stage_seconds_count", "stage") == {"wait", "trunk", "route", "queue", "expert"}
    for name in ("input_tokens", "output_tokens"):
        counted_tokens = told(f"fleet_{name}_total", task="mood")
        assert counted_tokens is not None
        assert counted_tokens >= sum(receipt[name] for receipt in receipts)


def test_the_time_of_a_job_is_what_its_receipt_says(client: httpx.Client) -> None:
    receipt = jobs(client, {"text": "Anna", "task": "mood"}).json()["answers"][0]["receipt"]
    told = Told(client)
    assert told("fleet_job_seconds_sum", task="mood") == pytest.approx(
        sum(receipt["milliseconds"].values()) / 1000
    )
    assert told("fleet_stage_seconds_sum", task="mood", stage="expert") == pytest.approx(
        receipt["milliseconds"]["expert"] / 1000
    )
    assert told("fleet_input_tokens_total", task="mood") == receipt["input_tokens"]


def test_experts_replicas_and_the_registry_are_gauges(client: httpx.Client, shop: Workshop) -> None:
    jobs(client, {"text": "x", "task": "mood"})
    jobs(client, {"text": "x", "task": "broken"})
    told = Told(client)
    digest = shop.registry.resolve("mood", "champion").digest[:12]
    assert told("fleet_expert_info", task="mood", version="1", wanted="1", digest=digest) == 1
    assert told("fleet_expert_ready_replicas", task="mood") == 1
    assert told("fleet_expert_quarantined", task="mood") == 0
    assert told("fleet_expert_quarantined", task="broken") == 1
    assert told("fleet_queued_jobs", task="mood") == 0
    assert told("fleet_router_info", version="1") == 1
    for name in ("fleet_replicas", "fleet_registry_reachable", "fleet_state_known"):
        assert told(name) == 1


def test_a_burst_of_jobs_that_nobody_fits_raises_an_alarm_in_metrics_and_status(
    client: httpx.Client, shop: Workshop
) -> None:
    jobs(client, {"text": RUSSIAN[0]})
    jobs(client, {"jobs": [{"text": "x", "task": "mood"}] * 50})  # these decide for themselves
    before = Told(client)
    assert before("fleet_routed_jobs_hour") == 1
    assert before("fleet_abstained_alarm", side="above") == 0
    high = before("fleet_abstained_fitted_share", bound="high")
    assert high is not None
    results = jobs(client, {"jobs": [{"text": NONSENSE}] * 64}).json()["results"]
    assert {result["decision"]["kind"] for result in results} == {"abstain"}
    told = Told(client)
    assert told("fleet_routed_jobs_hour") == 65
    share = told("fleet_undecided_share", decision="abstain")
    assert share == pytest.approx(64 / 65, abs=1e-4)
    assert share > high
    assert told("fleet_abstained_alarm", side="above") == 1
    assert told("fleet_abstained_alarm", side="below") == 0
    asked = ["--root", str(shop.place.parent), "status", "--address", str(client.base_url)]
    shown = " ".join(CliRunner().invoke(main, asked).stdout.split())
    assert "router, last hour: 65 jobs to decide, 64 abstained (98%, fitted" in shown
    assert "ALARM: since " in shown
    decisions = json.loads(CliRunner().invoke(main, [*asked, "--json"]).stdout)["service"]["state"][
        "decisions"
    ]
    assert (decisions["jobs"], decisions["abstained"], decisions["alarm"]) == (65, 64, "above")
    assert abs(decisions["since"] - time.time()) < 2 * STRETCH_SECONDS


def test_what_a_client_makes_up_becomes_no_label(client: httpx.Client) -> None:
    for number in range(20):
        jobs(client, {"text": f"text{number}", "task": f"made-up-{number}", "id": f"id{number}"})
        client.get(f"/made/up/{number}")
        client.request(f"MADE{number}", "/v1/jobs")
    page = client.get("/metrics").text
    assert not re.search(r"made.up|text\d|id\d|MADE", page)
    told = Told(client)
    assert told("fleet_jobs_total", task="-", outcome="unknown-task") == 20
    assert told("fleet_http_requests_total", route="-", status="404", key="-") == 20
    assert told("fleet_http_requests_total", route="/v1/jobs", status="404", key="-") == 20
    assert told.labels("fleet_http_request_seconds_count", "route") == {"-", "/v1/jobs", "/metrics"}


def test_requests_are_counted_by_the_name_of_their_key(shop: Workshop, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secrets = {name: add_key(file, name, tasks=("story",)) for name in ("acme", "bolt")}
    scraper = add_key(file, "scraper", metrics=True)
    settings = WebSettings(keys=KeySource(str(file), required=True))
    with live_service(shop, settings) as (address, _), httpx.Client(base_url=address) as client:
        for name, secret in secrets.items():
            client.headers["Authorization"] = f"Bearer {secret}"
            for _ in range(len(name)):
                jobs(client, {"text": "x", "task": "mood"})
        assert client.get("/metrics").status_code == 403
        client.headers["Authorization"] = "Bearer made-up"
        jobs(client, {"text": "x"})
        client.headers["Authorization"] = f"Bearer {scraper}"
        told = Told(client)
        page = client.get("/metrics").text
    assert told("fleet_http_requests_total", route="/v1/jobs", status="403", key="acme") == 4
    assert told("fleet_http_requests_total", route="-", status="401", key="-") == 1
    assert told("fleet_jobs_total", task="-", outcome="forbidden") == 8
    # Whoever scrapes sees all tasks.
    assert told.labels("fleet_expert_ready_replicas", "task") == {"mood", "story", "broken"}
    for secret in (*secrets.values(), scraper, "made-up"):
        assert secret not in page


class Hangs:
    """A backend that cannot say how it is."""

    async def answer(
        self, jobs: Sequence[Job], *, top: int = 1, seconds: float | None = None
    ) -> list[Result]:
        return [Result(job.id, None, error="no", code="failed") for job in jobs]

    async def stream(self, job: Job, *, seconds: float | None = None) -> AsyncIterator[str | Result]:
        yield Result(job.id, None, error="no", code="failed")

    async def state(self) -> ServiceState:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue


def test_the_counts_come_also_when_the_state_does_not() -> None:
    with listening(make_app(Hangs(), version="0")) as address, httpx.Client(base_url=address) as client:
        jobs(client, {"text": "x"})
        told = Told(client)
    assert told("fleet_state_known") == 0
    assert told("fleet_jobs_total", task="-", outcome="failed") == 1
    assert told("fleet_replicas") is None


def expressions() -> list[str]:
    """Every PromQL expression that ``ops/`` ships."""
    alerts = yaml.safe_load((OPS / "alerts.yml").read_text())
    board = json.loads((OPS / "grafana-dashboard.json").read_text())
    found = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    found += [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    found += [each["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    return found


def test_the_dashboard_and_the_alerts_ask_for_what_is_there(client: httpx.Client) -> None:
    jobs(client, {"text": "x", "task": "mood"})
    there = {sample.name for family in families(client).values() for sample in family.samples}
    asked = {name for each in expressions() for name in re.findall(r"\bfleet_[a-z_]+", each)}
    assert len(asked) > 12
    assert asked - there == set()
    labels = {
        label for family in families(client).values() for sample in family.samples for label in sample.labels
    }
    used = {name for each in expressions() for name in re.findall(r"[{,]\s*([a-z]+)\s*[=!]~?\"", each)}
    assert used
    assert used - labels - {"job", "instance"} == set()


def test_prometheus_scrapes_with_a_key_of_its_own() -> None:
    declared = yaml.safe_load((OPS / "prometheus.yml").read_text())
    assert declared["rule_files"] == ["alerts.yml"]
    (scrape,) = declared["scrape_configs"]
    assert scrape["metrics_path"] == "/metrics"
    assert scrape["authorization"].keys() == {"type", "credentials_file"}
