"""The bench of hosting runs on a real service over a tiny base; its figures mean nothing here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.hosting.contenders import Ours, Peer
from benchmarks.hosting.load import Answered, Outcome, Said, cut
from benchmarks.hosting.rate import Search
from benchmarks.serving.workload import Job

ROOT = Path(__file__).parents[2]
PARTS = ("overhead", "peer", "bulk", "rate", "promotion", "chaos", "memory")
# In a process of its own: it starts a Ray and kills a replica in it.
SMOKE = "import sys; from pathlib import Path; from benchmarks import bench, host; bench.RESULTS = Path(sys.argv[1]); host.main(['--smoke'])"  # noqa: E501


def job(number: int, expert: int = 0) -> Job:
    return Job(number, "classification", expert, f"text {number}", (), ())


def outcome(latencies: list[float], lost: int = 0) -> Outcome:
    answered = [Answered(job(n), 0.0, each, Said("a")) for n, each in enumerate(latencies)]
    return Outcome(answered + [Answered(job(99), 0.0, 0.1, None, "HTTP 500")] * lost, 0.0)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    place = tmp_path_factory.mktemp("results")
    done = subprocess.run([sys.executable, "-c", SMOKE, str(place)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return {part: json.loads((place / "smoke" / f"host_{part}.json").read_text()) for part in PARTS}


def test_a_smoke_run_measures_every_part_and_loses_nothing(reports: dict[str, dict[str, Any]]) -> None:
    for report in reports.values():
        assert report["rows"]
        assert report["failures"] == []
        assert all(math.isfinite(ratio) for ratio in report["ratios"].values())
    (killed,) = reports["chaos"]["rows"]
    assert killed["jobs"] > 0
    assert killed["lost"] == killed["of another version"] == 0
    assert {row["contender"] for row in reports["peer"]["rows"]} == {"ours", "peer", "peer, generate"}
    assert sum(row["process"] == "host" for row in reports["memory"]["rows"]) == 4


def test_a_lost_job_counts_as_one_that_is_never_answered() -> None:
    assert outcome([0.1] * 99 + [5.0]).percentile(99) == pytest.approx(100)
    assert outcome([0.1] * 98, lost=2).percentile(99) == math.inf
    assert outcome([0.1] * 98, lost=2).lost == ["HTTP 500"] * 2


def test_rates_close_in_on_the_highest_that_is_kept() -> None:
    search = Search(Ours(), 1, rate=8.0)
    for _ in range(12):
        search.tell(outcome([0.5 if search.rate <= 13.0 else 2.0]))
    assert search.kept == pytest.approx(13.0, rel=0.01)
    assert search.kept <= 13.0 < search.broken


def test_a_batch_is_one_request_of_ours_and_one_for_each_expert_of_the_peers() -> None:
    jobs = [job(0, expert=3), job(1, expert=5), job(2, expert=3)]
    (whole,) = Ours().requests(jobs)
    assert whole[1] == jobs
    by_expert = {r.headers["serve_multiplexed_model_id"]: group for r, group in Peer().requests(jobs)}
    assert by_expert == {"expert-003": [jobs[0], jobs[2]], "expert-005": [jobs[1]]}
    assert [len(part) for part in cut(jobs, 2)] == [2, 1]
