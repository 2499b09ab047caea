"""``fleet router what-if``, ``fleet route --router`` and ``fleet check --router`` on a tiny fleet."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fleet.cli.main import main
from fleet.registry.store import ROUTER, RunRecord
from fleet.routing.artifact import load_router, save_router
from fleet.workshop import DIGITS, FOX, RUSSIAN, Workshop, open_shop

TASK = """task: {name}
description: Whether it is good.
kind: classification
labels: [good, bad]
data: {{train: train.jsonl, eval: eval.jsonl, columns: {{output: label}}}}
"""
ROWS = {
    "digits": [DIGITS[:20], DIGITS[20:]],
    "russian": [RUSSIAN[:6], RUSSIAN[6:]],
    "fox": [FOX[:6], FOX[6:]],
    "sums": [DIGITS[1:20], DIGITS[21:]],
}


def declare(root: Path, name: str) -> None:
    folder = root / "tasks" / name
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text(TASK.format(name=name))
    for file, texts in zip(("train", "eval"), ROWS[name], strict=True):
        rows = [
            json.dumps({"text": text, "label": "good" if n % 2 else "bad"}) for n, text in enumerate(texts)
        ]
        (folder / f"{file}.jsonl").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    """Four declared tasks, of which digits and russian have champions; router 1 knows one, 2 both."""
    root = tmp_path_factory.mktemp("trial")
    made = open_shop(root, mlflow_template)
    for name in ROWS:
        declare(root, name)
    for name in ("digits", "russian"):
        made.make(name)
    return made


def fleet(shop: Workshop, *arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["--root", str(shop.place.parent), *arguments], input=stdin)


def what_if(shop: Workshop, *arguments: str, stdin: str = "") -> dict[str, Any]:
    ran = fleet(shop, "router", "what-if", *arguments, "--json", stdin=stdin)
    assert ran.exit_code == 0, ran.output
    return dict(json.loads(ran.stdout))


def versions(shop: Workshop) -> list[int]:
    return [info.version for info in shop.registry.versions(ROUTER)]


def test_a_task_is_tried_before_there_is_a_router(shop: Workshop) -> None:
    trial = what_if(shop, "fox")
    assert trial["router_version"] is None
    assert trial["jobs"] == 12
    shifts = {shift["task"]: shift for shift in trial["found"]["shifts"]}
    assert list(shifts) == ["digits", "russian", None]
    assert (shifts["digits"]["jobs"], shifts["russian"]["jobs"]) == (10, 2)
    assert trial["found"]["own"]["jobs"] == 2
    assert versions(shop) == []


def test_a_task_that_is_another_ones_copy_takes_or_disturbs_its_jobs(shop: Workshop) -> None:
    digits, russian, _ = what_if(shop, "sums")["found"]["shifts"]
    assert digits["before"] > 0
    assert digits["taken"] + digits["asked"] + digits["abstained"] > 0
    assert russian["taken"] == 0


def test_the_champion_router_is_tried_on_jobs_of_a_file(shop: Workshop) -> None:
    shop.route({"digits": ROWS["digits"][0]})
    shop.route({name: ROWS[name][0] for name in ("digits", "russian")})
    lines = [{"text": text} for text in [*DIGITS[20:], *FOX[6:]]]
    lines.append({"text": "for digits", "task": "digits"})
    stdin = "\n".join(map(json.dumps, lines)) + "\nno job\n"
    trial = what_if(shop, "fox", "--jobs", "-", stdin=stdin)
    assert (trial["router_version"], trial["jobs"]) == (2, 12)
    assert any("line 14" in reason for reason in trial["left_out"])
    assert any("1 jobs name their task" in reason for reason in trial["left_out"])
    assert all(shift["jobs"] is None for shift in trial["found"]["shifts"])
    assert sum(shift["before"] for shift in trial["found"]["shifts"]) == 12
    assert versions(shop) == [2, 1]


def test_a_champion_is_left_out_and_added_again_and_a_person_is_shown_a_table(shop: Workshop) -> None:
    ran = fleet(shop, "router", "what-if", "russian")
    assert ran.exit_code == 0, ran.output
    assert "russian, tried beside router version 2 on 10 evaluation rows" in ran.stdout
    (row,) = [line for line in ran.stdout.splitlines() if line.startswith("digits")]
    assert row.split()[1] == "10"
    assert "of 2 evaluation rows of russian" in ran.stdout


def test_what_cannot_be_tried_is_said(shop: Workshop, tmp_path: Path) -> None:
    unknown = fleet(shop, "router", "what-if", "foxx")
    assert (unknown.exit_code, "did you mean fox?" in unknown.stderr) == (2, True)
    nothing = fleet(shop, "router", "what-if", "fox", "--jobs", "-", stdin="no job\n")
    assert (nothing.exit_code, "there is no job to try it on: line 1" in nothing.stderr) == (2, True)
    absent = fleet(shop, "router", "what-if", "fox", "--jobs", str(tmp_path / "absent"))
    assert absent.exit_code == 2


def test_any_version_of_the_router_decides_when_asked(shop: Workshop) -> None:
    russian = RUSSIAN[0]
    said = {}
    for number in (1, 2):
        ran = fleet(shop, "route", russian, "--router", str(number), "--explain", "--json")
        assert f"router version {number} decides" in ran.stderr
        said[number] = json.loads(ran.stdout)
        assert said[number]["router_version"] == number
    assert [each["task"] for each in said[1]["explained"].get("tasks", [])] in ([], ["digits"])
    assert {each["task"] for each in said[2]["explained"]["tasks"]} == {"digits", "russian"}
    many = fleet(shop, "route", "--file", "-", "--router", "1", stdin=json.dumps({"text": DIGITS[0]}))
    assert "router version 1 decides" in many.stderr


def test_a_version_that_is_not_there_or_of_another_base_is_refused(shop: Workshop, tmp_path: Path) -> None:
    ran = fleet(shop, "route", "14 98", "--router", "9")
    assert ran.exit_code == 2
    assert "fleet.router has no version 9; there are: 1, 2" in ran.stderr
    info = shop.registry.numbered(ROUTER, 2)
    router = load_router(shop.registry.fetch(info, tmp_path / "cache"))
    ground = dataclasses.replace(router.ground, base_fingerprint="0" * 64)
    save_router(tmp_path / "other", dataclasses.replace(router, ground=ground))
    other = shop.registry.log_version(ROUTER, tmp_path / "other", RunRecord(), {}, kind="router")
    ran = fleet(shop, "route", "14 98", "--router", str(other.version))
    assert ran.exit_code == 1
    assert "the router was fitted over base 000000000000" in ran.stderr


def test_check_asks_a_whole_router_which_tasks_are_alike(shop: Workshop) -> None:
    for arguments in ((), ("--router",)):
        ran = fleet(shop, "check", "--json", *arguments)
        assert ran.exit_code == 0, ran.output
        alike = [f for f in json.loads(ran.stdout)["faults"] if f["rule"] == "tasks-alike"]
        assert [(f["file"], f["value"]) for f in alike] == [("tasks/digits/task.yaml", "sums")]
        assert ("states and letters" in alike[0]["message"]) == bool(arguments)
        assert "tasks/sums/train.jsonl:" in alike[0]["message"]


def test_check_with_a_router_shows_every_fault_where_the_jobs_of_nobody_are_wrong(shop: Workshop) -> None:
    root = shop.place.parent
    declared, rows = root / "fleet.yaml", root / "tasks" / "fox" / "train.jsonl"
    before = declared.read_text(), rows.read_text()
    declared.write_text(before[0] + "routing: {out_of_scope_jobs: nobody.jsonl}\n")
    (root / "nobody.jsonl").write_text('{"fields": {"text": " "}}\n')
    rows.write_text(before[1] + "{broken\n")
    try:
        ran = fleet(shop, "check", "--router", "--json")
    finally:
        declared.write_text(before[0])
        rows.write_text(before[1])
        (root / "nobody.jsonl").unlink()
    assert ran.exit_code == 2
    wrong = {fault["file"] for fault in json.loads(ran.stdout)["faults"] if fault["severity"] == "error"}
    assert wrong == {"nobody.jsonl", "tasks/fox/train.jsonl"}
