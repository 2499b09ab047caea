from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from fleet.assignment import TaskOutcome
from fleet.campaign import CampaignReport, Observer, ReportRow
from fleet.cli.live import LiveTable, PlainLines, watching
from fleet.cli.main import main
from fleet.cli.output import duration, size
from fleet.cli.report import show_report
from fleet.engine.train import Progress
from fleet.errors import ClusterError
from fleet.plain import json_line
from fleet.project import Project

STEP = Progress("sentiment", "training", 40, 120, 1, 0.53217, math.nan, 1234.5, 125.0)
DONE = TaskOutcome("sentiment", "key", "artifact", "digest", None, seconds=61.2)
FAILED = TaskOutcome("intent", "key", "", "", "MemoryError: no room\nfor anything")
TRAINED = ReportRow(
    "sentiment",
    "trained",
    3,
    "macro_f1",
    0.8712,
    0.81,
    0.92,
    0.85,
    0.74,
    "held",
    "p = 0.21 [no better]",
    61.2,
)
REPORT = CampaignReport(
    (
        ReportRow("intent", "failed", error="MemoryError: no room", reason="MemoryError: no room"),
        TRAINED,
        ReportRow(
            "story", "unchanged", 1, "perplexity", 12.5, reason="same manifest, data and base as version 1"
        ),
    ),
    "version 2 (0123456789ab) over 2 tasks",
)


def screen(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_live_table_follows_every_task() -> None:
    console = screen(terminal=True)
    with watching(console) as observer:
        assert isinstance(observer, LiveTable)
        observer.started(["intent", "moderation", "sentiment"])
        observer.progress(STEP)
        observer.outcome(FAILED)
        observer.note("registered [sentiment]")
        console.print(observer.render())
    text = shown(console)
    for word in ("waiting", "40/120", "0.532", "1,234", "2 min 05 s", "failed", "registered [sentiment]"):
        assert word in text
    assert "intent failed: MemoryError: no room" in text
    assert "for anything" not in text.partition("intent failed")[2].partition("\n")[0]


def test_plain_lines_say_what_is_new_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    with watching(screen(terminal=False)) as observer:
        assert isinstance(observer, PlainLines)
        observer.started(["sentiment", "intent"])
        observer.progress(Progress("sentiment", "preparing", 0, 0, 0, math.nan, math.nan, 0.0, math.nan))
        for step in range(121):
            observer.progress(replace(STEP, step=step))
            observer.progress(replace(STEP, step=step, state="validating"))
        observer.outcome(DONE)
        observer.outcome(FAILED)
    streams = capsys.readouterr()
    assert streams.out == ""
    lines = streams.err.splitlines()
    assert lines[:2] == ["training: sentiment, intent", "sentiment: preparing"]
    assert sum(line.startswith("sentiment: training") for line in lines) == 11
    assert "sentiment: training, step 48/120, loss 0.532, 1,234 tokens/s, 2 min 05 s left" in lines
    assert lines[-2:] == ["sentiment: trained in 1 min 01 s", "intent: failed: MemoryError: no room"]


class Ran:
    """A campaign that has an end already, and remembers what it was asked."""

    def __init__(self, end: CampaignReport | BaseException) -> None:
        self.end = end
        self.asked: tuple[Any, ...] = ()

    def __call__(
        self, project: Project, names: Sequence[str], observer: Observer, **options: Any
    ) -> CampaignReport:
        self.asked = (list(names), options)
        observer.note("base: tiny")
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


def run(
    root: Path, monkeypatch: pytest.MonkeyPatch, end: CampaignReport | BaseException, *arguments: str
) -> tuple[Result, Ran]:
    (root / "fleet.yaml").write_text("name: small\n")
    ran = Ran(end)
    monkeypatch.setattr("fleet.campaign.run_campaign", ran)
    return CliRunner().invoke(main, ["--root", str(root), *arguments]), ran


def test_the_report_has_one_row_per_task_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, ran = run(tmp_path, monkeypatch, REPORT, "train-all", "--only", "changed", "--workers", "2")
    assert result.exit_code == 1
    assert ran.asked == ([], {"address": None, "workers": 2, "threads": None, "only": "changed"})
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert "0.871 [0.810, 0.920]" in rows["sentiment"]
    assert "held: p = 0.21 [no better]" in rows["sentiment"]
    assert "1 min 01 s" in rows["sentiment"]
    assert "12.500" in rows["story"]
    assert "unchanged: same manifest" in rows["story"]
    assert "version 2 (0123456789ab) over 2 tasks" in rows["router:"]
    assert "intent failed: MemoryError: no room" in result.stderr
    assert "base: tiny" in result.stderr


def test_the_report_as_json_has_no_figure_that_json_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = CampaignReport((TRAINED, REPORT.rows[2]), "unchanged")
    result, ran = run(tmp_path, monkeypatch, report, "train", "sentiment", "story", "sentiment", "--json")
    assert result.exit_code == 0
    assert ran.asked[0] == ["sentiment", "story"]
    written = json.loads(result.stdout)
    assert written["failed"] is False
    assert written["rows"][1]["low"] is None
    assert written["rows"][0]["value"] == pytest.approx(0.8712)


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "The same command goes on"),
        (ClusterError("nothing at host:1"), 1, "nothing at"),
    ],
)
def test_what_ends_a_campaign_early(
    end: BaseException, code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = run(tmp_path, monkeypatch, end, "train-all")
    assert result.exit_code == code
    assert words in result.stderr
    assert result.stdout == ""


def test_what_is_no_address_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, ran = run(tmp_path, monkeypatch, REPORT, "train-all", "--address", "http://host:8265")
    assert result.exit_code == 2
    assert "write host:port" in result.stderr
    assert ran.asked == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (7260, "2 h 01 min"),
        (3e5, "3 d"),
        (math.nan, "-"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_and_json_lines() -> None:
    assert [size(12), size(5_100_000)] == ["0.0 kB", "5.1 MB"]
    assert json_line({"a": math.inf, "b": ("ä", Path("x"))}) == '{"a": null, "b": ["ä", "x"]}'


def test_in_a_narrow_terminal_reasons_stand_below_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fleet.cli.report.console", lambda: screen_on_stdout(100))
    show_report(REPORT)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].rstrip().endswith("held")
    assert "sentiment: p = 0.21 [no better]" in lines


def screen_on_stdout(width: int) -> Console:
    return Console(file=sys.stdout, width=width, color_system=None)
