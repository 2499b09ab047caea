"""The benches of the router run to the end, on tiny data of the public sets' shape; figures mean nothing."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench, route_compound, route_public, route_starter
from benchmarks.routing import semantic
from benchmarks.routing.sets import SETS

LABELS = ("alpha", "beta", "gamma", "delta", "epsilon")
ROWS = 12


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    return tmp_path / "results" / "smoke"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Every file of every part."""
    folder = tmp_path / "data"
    rng = random.Random(0)
    columns = {each.folder: each.column for each in SETS}
    files = {name for _, needed, _ in route_public.PARTS.values() for name in needed}
    for name in sorted(files):
        column = columns[Path(name).parent.name]
        strange = "oos" in name
        rows = [
            {"text": _text(rng, label, name), column: None if strange else label}
            for label in LABELS
            for _ in range(ROWS)
        ]
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _text(rng: random.Random, label: str, name: str) -> str:
    words = [f"{label}{rng.randrange(4)}" for _ in range(4)] if "oos" not in name else ["far", "away"]
    return " ".join([*words, str(rng.randrange(10**6))])


def _written(results: Path) -> dict[str, Mapping[str, Any]]:
    return {file.stem: json.loads(file.read_text()) for file in results.glob("*.json")}


def test_every_part_on_public_data_fills_its_table(data: Path, results: Path) -> None:
    route_public.main(["--smoke", "--data", str(data)])

    found = _written(results)
    assert set(found) == {"route_clinc", "route_banking", "route_fleet", "route_size"}
    contenders = {row["contender"] for row in found["route_clinc"]["rows"]}
    assert {"taskfleet", "TF-IDF + logistic regression"} <= contenders
    assert all(0 <= row["test rows refused"] <= 1 for row in found["route_clinc"]["rows"])
    left_out = [row for row in found["route_banking"]["rows"] if row["out of scope"]]
    assert len(left_out) == 6
    assert all(row["AUROC"] is not None for row in left_out)
    assert {(row["budget"], row["jobs"]) for row in found["route_fleet"]["rows"]} == {
        (budget, jobs)
        for budget in (0.01, 0.02, 0.05)
        for jobs in ("input alone", "instruction and input", "of nobody")
    }
    assert all(row["ms a decision, 64 at once"] > 0 for row in found["route_size"]["rows"])


def test_a_part_without_its_files_is_skipped_and_says_which(
    data: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "banking77" / "test.jsonl").unlink()

    route_public.main(["--smoke", "--parts", "banking", "--data", str(data)])

    assert f"skipped banking: {data} has no banking77/test.jsonl; --data" in capsys.readouterr().out
    assert not results.exists()


def test_without_the_peer_a_note_says_how_to_get_it(tmp_path: Path) -> None:
    python, why = semantic.find(tmp_path / "python")
    assert python is None
    assert f"{tmp_path / 'python'} does not run" in why
    assert f"pip install {semantic.PACKAGE}" in why

    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without any installed package
    bare.chmod(0o755)
    python, why = semantic.find(bare)
    assert python is None
    assert "No module named" in why


def test_a_peer_that_was_named_and_does_not_run_is_said_before_anything_is_measured(
    data: Path, results: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=r"--semantic-router: .*nowhere does not run"):
        route_public.main(["--smoke", "--data", str(data), "--semantic-router", str(tmp_path / "nowhere")])
    assert not results.exists()


def test_the_starter_router_is_shown_with_what_changes_and_attacks_do(results: Path, tmp_path: Path) -> None:
    every = tmp_path / "all.json"
    route_starter.main(["--smoke", "--json", str(every)])

    found = _written(results)
    assert set(found) == {"route_starter", "route_starter_changes"}
    assert len(found["route_starter"]["rows"]) == 7
    changes = {row["change"]: row for row in found["route_starter_changes"]["rows"]}
    assert {"typos", "whitespace", "upper case", "word order", "all"} <= set(changes)
    assert all(0 <= changes["typos"][f"flips, {rows}"] <= 1 for rows in ("evaluation rows", "held-out rows"))
    assert "attacks that succeed, on evaluation rows" in found["route_starter_changes"]["ratios"]
    assert "attack_success" in json.loads(every.read_text())["changed"]


def test_compound_jobs_are_shown_beside_ordinary_ones(results: Path) -> None:
    route_compound.main(["--smoke"])

    found = _written(results)["route_compound"]
    assert [row["count"] for row in found["rows"]] == [44, 64, 84, 200]
    assert all(0 <= row["called compound"] <= 1 for row in found["rows"])
    assert found["notes"][-1].startswith("at the fit: compound_bar")
