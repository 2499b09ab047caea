"""The serving bench runs; over a tiny base in fp32 all peers answer as we do. Its speeds mean nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import bench, serve_mixed
from benchmarks.serving import experts
from benchmarks.serving.clients import Answered, closed_loop, mates_of_expert, mates_of_length
from benchmarks.serving.contenders import Contenders
from benchmarks.serving.workload import Job

PEFT = {"peft-mixed", "peft-each", "peft-score"}


def job(number: int, expert: int = 0, length: int = 1, kind: str = "text") -> Job:
    return Job(number, kind, expert, "", (), tuple(range(length)))


def test_a_smoke_run_measures_every_contender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)

    serve_mixed.main(["--smoke"])

    report = json.loads((tmp_path / "smoke" / "serve_mixed.json").read_text())
    by_kind: dict[str, set[str]] = {}
    for row in report["rows"]:
        by_kind.setdefault(row["kind"], set()).add(row["contender"])
        assert row["jobs/s"] > 0
    assert by_kind == {
        "classification": {"ours", *PEFT},
        "extraction": {"ours", "peft-mixed"},
        "text": {"ours", "peft-mixed", "peft-each"},
        "mix": {"ours", "peft-mixed"},
        "stream": {"ours"},
    }
    saved = {row["kind"]: row["steps saved"] for row in report["rows"] if row["contender"] == "ours"}
    assert saved["extraction"] > 0
    assert saved["text"] == 0
    assert all(math.isfinite(ratio) for ratio in report["ratios"].values())


def test_a_peer_with_other_adapters_fails_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr(experts, "SPREAD", 0.5)
    monkeypatch.setattr(Contenders, "_peer_adapters", property(lambda self: self.setup.adapters[3:6]))

    with pytest.raises(SystemExit, match="peft-mixed gives"):
        serve_mixed.main(["--smoke", "--kind", "classification", "--peers", "peft-mixed"])


def test_a_client_sends_its_next_job_when_its_last_is_answered() -> None:
    class Slow:
        """Answers the oldest job it holds."""

        def __init__(self) -> None:
            self.held: list[Job] = []
            self.most = 0

        def send(self, jobs: Sequence[Job]) -> None:
            self.held += jobs
            self.most = max(self.most, len(self.held))

        def work(self) -> list[Answered]:
            return [Answered(self.held.pop(0), tokens=1)]

    server = Slow()
    window = closed_loop(server, [job(number) for number in range(9)], clients=4)

    assert [answer.job.number for answer in window.answers] == list(range(9))
    assert server.most == 4
    assert len(window.latencies) == 9
    assert max(window.latencies) <= window.seconds


def test_static_batches_hold_the_oldest_job_and_its_like() -> None:
    waiting = [job(0, expert=1, length=5), job(1, length=1), job(2, expert=1, length=4), job(3, length=9)]
    waiting.append(job(4, expert=1, kind="extraction"))

    assert [each.number for each in mates_of_length(2)(waiting)] == [0, 3]
    assert [each.number for each in mates_of_length(4)(waiting)] == [1, 2, 0, 3]
    assert [each.number for each in mates_of_expert(2)(waiting)] == [0, 2]
