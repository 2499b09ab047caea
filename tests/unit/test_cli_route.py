from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from click.testing import Result as Ran
from hypothesis import given
from hypothesis import strategies as st

from fleet.cli.main import main
from fleet.host import Host
from fleet.job import Answer, Job, Receipt, Result, Weights
from fleet.lines import MAX_LINE, read_lines
from fleet.project import Project
from fleet.routing.decision import Decision


class Parrot:
    """A host that repeats each job; the text says what the router makes of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stop_after: int | None = None
        self.weights: Weights = "bf16"
        self.router: int | None = None

    def answer(self, jobs: Sequence[Job], *, top: int = 1) -> list[Result]:
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        return [self._answer(job, top) for job in jobs]

    def _answer(self, job: Job, top: int) -> Result:
        text = dict(job.named_fields()).get("text", "")
        self.asked.append(text)
        if job.task is not None:
            return Result(job.id, Decision.forced(job.task), (self._say(job.task, text),))
        if text == "odd":
            return Result(job.id, decision("abstain", reason="nothing like it"))
        if text == "both":
            return Result(job.id, decision("clarify", tasks=("intent", "sentiment")))
        if text == "broken":
            reason = "intent is quarantined: damaged"
            return Result(job.id, decision("route", "intent"), (), reason, failed={"intent": reason})
        if text == "half":
            said = (self._say("sentiment", text),)
            return Result(job.id, decision("route", "sentiment"), said, failed={"intent": "intent is off"})
        tasks = ("sentiment", "intent")[:top]
        return Result(job.id, decision("route", "sentiment"), tuple(self._say(task, text) for task in tasks))

    def _say(self, task: str, text: str) -> Answer:
        receipt = Receipt(task, 3, "d" * 64, "b" * 64, 2, "route", 0.9, 7, 1, self.weights, {"trunk": 12.0})
        return Answer(task, {"said": text}, text, 0.9, False, receipt)

    def explain(self, job: Job) -> dict[str, Any]:
        return {"fit": 0.25, "nearest": [{"task": "sentiment", "source": "train.jsonl:7"}]}


def decision(
    kind: str, task: str | None = None, tasks: tuple[str, ...] = (), reason: str = "clear"
) -> Decision:
    return Decision(kind=kind, task=task, tasks=tasks, confidence=0.87, fit=1.5, reason=reason)


@pytest.fixture
def parrot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parrot:
    (tmp_path / "fleet.yaml").write_text("name: small\n")
    for task in ("sentiment", "intent"):
        (tmp_path / "tasks" / task).mkdir(parents=True)
        (tmp_path / "tasks" / task / "task.yaml").touch()
    monkeypatch.chdir(tmp_path)
    host = Parrot()

    def opened(project: Project, *, weights: Weights = "bf16", router: int | None = None) -> Parrot:
        assert project.config.name == "small"
        host.weights, host.router = weights, router
        return host

    monkeypatch.setattr(Host, "open", opened)
    return host


def route(*arguments: str, stdin: str | bytes = "") -> Ran:
    return CliRunner().invoke(main, ["route", *arguments], input=stdin)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fine"], 0, ["route to sentiment", '"said": "fine"', "sentiment version 3", "7 tokens in"]),
        (["odd"], 3, ["abstain", "nothing like it"]),
        (["both"], 3, ["clarify: intent or sentiment?"]),
        (["odd", "--task", "intent"], 0, ["intent", '"said": "odd"']),
        (["fine", "--top", "2"], 0, ["sentiment version 3", "intent version 3"]),
        (["fine", "--weights", "int4"], 0, ["base bbbbbbbbbbbb in int4"]),
        (["fine", "--weights", "int8"], 0, ["base bbbbbbbbbbbb in int8"]),
        (["fine", "--explain"], 0, ["why", "fit: 0.250", "source train.jsonl:7"]),
    ],
)
def test_one_text(parrot: Parrot, arguments: list[str], code: int, words: list[str]) -> None:
    ran = route(*arguments)
    assert ran.exit_code == code, ran.stderr
    for word in words:
        assert word in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["broken"], 1, "quarantined"),
        (["fine", "--task", "sentimant"], 2, "did you mean sentiment?"),
        (["--file", "-", "--task", "nope"], 2, "there is no task called nope"),
        (["my", "card", "was", "charged"], 2, "put the text in quotes"),
        (["  "], 2, "the text is empty"),
        ([], 2, "TEXT or --file"),
        (["fine", "--file", "-"], 2, "TEXT or --file"),
        (["fine", "--output", "out.jsonl"], 2, "--output goes with --file"),
        (["fine", "--router", "2", "--task", "intent"], 2, "--router does not go with --task"),
        (["--file", "-", "--router", "2", "--address", "auto"], 2, "--router does not go with --address"),
        (["--file", "absent.jsonl"], 2, "absent.jsonl"),
    ],
)
def test_what_goes_wrong_has_its_exit_code(
    parrot: Parrot, arguments: list[str], code: int, words: str
) -> None:
    ran = route(*arguments)
    assert ran.exit_code == code
    assert words in ran.stderr


def test_one_text_as_json(parrot: Parrot) -> None:
    written = json.loads(route("fine", "--json", "--explain").stdout)
    assert written["result"]["decision"]["task"] == "sentiment"
    assert written["result"]["answers"][0]["receipt"]["digest"] == "d" * 64
    assert written["explained"]["fit"] == 0.25


LINES = [
    {"id": "a", "text": "fine"},
    {"text": "odd"},
    {"id": 7, "fields": {"text": "both"}, "task": "intent"},
]


def test_another_version_of_the_router_decides_and_is_named(parrot: Parrot) -> None:
    ran = route("odd", "--router", "2", "--json")
    assert parrot.router == 2
    assert json.loads(ran.stdout)["router_version"] == 2
    many = route("--file", "-", "--router", "4", stdin='{"text": "fine"}\n')
    assert parrot.router == 4
    assert "router version 4 decides" in many.stderr


def jsonl(values: Sequence[object]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.mark.parametrize("arguments", [["--file", "-"], ["-"]])
def test_many_jobs_in_order(parrot: Parrot, arguments: list[str]) -> None:
    ran = route(*arguments, "--json", stdin=jsonl(LINES))
    assert ran.exit_code == 0
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [result["id"] for result in results] == ["a", "2", "7"]
    assert [result["decision"]["kind"] for result in results] == ["route", "abstain", "route"]
    assert results[2]["answers"][0]["task"] == "intent"
    assert results[1]["answers"] == []


def test_an_expert_that_failed_beside_the_chosen_one_is_named_and_no_error(parrot: Parrot) -> None:
    ran = route("half", "--top", "2")
    assert ran.exit_code == 0
    assert "no answer: intent is off" in ran.stdout
    ran = route("-", "--top", "2", stdin=jsonl([{"text": "half"}, {"text": "broken"}]))
    half, broken = click.unstyle(ran.stdout).splitlines()
    assert half.endswith('{"said": "half"}  no answer: intent is off')
    assert "no answer" not in broken  # the error says it
    ran = route("-", "--json", stdin='nonsense\n{"text": "half"}\n')
    failed = [json.loads(line)["failed"] for line in ran.stdout.splitlines()]
    assert failed == [{}, {"intent": "intent is off"}]


def test_a_line_that_is_no_job_is_a_result_of_its_own(parrot: Parrot) -> None:
    ran = route("-", "--json", stdin=jsonl(LINES[:1]) + '\n{"txt": 1}\nnot json\n' + jsonl(LINES[1:]))
    assert ran.exit_code == 2
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [result["bad_job"] for result in results] == [False, True, True, False, False]
    assert "line 3: unknown key 'txt'" in results[1]["error"]
    assert parrot.asked == ["fine", "odd", "both"]
    assert route("-", stdin="nonsense\n" + jsonl([{"text": "broken"}])).exit_code == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[1]", "should be an object"),
        (b'{"id": "a"}', "either text or fields"),
        (b'{"text": "a", "fields": {"text": "b"}}', "either text or fields"),
        (b'{"text": " "}', "empty"),
        (b'{"text": 3}', "text should be text"),
        (b'{"text": "a", "id": true}', "id should be text"),
        (b'{"fields": {"n": 3}}', "object of texts"),
        (b'{"fields": {}}', "object of texts"),
        (b'{"text": "\xff"}', "UTF-8"),
        (rb'{"text": "\ud83d"}', "UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"text": "' + b"a" * MAX_LINE + b'"}', "longer than"),
    ],
)
def test_faults_of_lines(line: bytes, words: str) -> None:
    first, second = read_lines(io.BytesIO(line + b"\n" + b'{"text": "next"}\n'))
    assert first.job is None
    assert words in first.error
    assert second.job == Job("2", text="next")


@given(st.lists(st.dictionaries(st.sampled_from(["text", "id", "task"]), st.text(), min_size=1)))
def test_every_line_that_is_not_blank_comes_back_as_one(values: list[dict[str, str]]) -> None:
    lines = list(read_lines(io.BytesIO(jsonl(values).encode())))
    assert len(lines) == len(values)
    for line, value in zip(lines, values, strict=True):
        assert (line.job is not None) == bool(value.get("text", "").strip())
        if line.job is not None:
            assert line.job.text == value["text"]


def many(count: int) -> str:
    return jsonl([{"text": f"job {number}"} for number in range(count)])


def test_an_interrupted_run_is_gone_on_with(parrot: Parrot, tmp_path: Path) -> None:
    jobs, whole, out = (tmp_path / name for name in ("jobs.jsonl", "whole.jsonl", "out.jsonl"))
    jobs.write_text(many(150) + "no job\n")
    assert route("--file", str(jobs), "--output", str(whole)).exit_code == 2
    parrot.asked.clear()
    parrot.stop_after = 64
    stopped = route("--file", str(jobs), "--output", str(out))
    assert stopped.exit_code == 130
    assert "goes on from there" in stopped.stderr
    assert len(out.read_text().splitlines()) == 64
    parrot.stop_after = None
    ended = route("--file", str(jobs), "--output", str(out))
    assert ended.exit_code == 2
    assert "151 of 151 jobs" in ended.stderr
    assert out.read_bytes() == whole.read_bytes()
    assert parrot.asked == [f"job {number}" for number in range(150)]


def test_wherever_a_run_was_cut_the_result_is_the_same(parrot: Parrot, tmp_path: Path) -> None:
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out.jsonl"
    jobs.write_text(many(3))
    command = ("--file", str(jobs), "--output", str(out))
    assert route(*command).exit_code == 0
    whole = out.read_bytes()
    for cut in range(0, len(whole), 97):
        out.write_bytes(whole[:cut])
        parrot.asked.clear()
        assert route(*command).exit_code == 0
        assert out.read_bytes() == whole
        assert len(parrot.asked) == 3 - whole[:cut].count(b"\n")


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (b"precious\n", "no result of fleet route"),
        (b"precious, without a newline", "no result of fleet route"),
        (b'{"id": "1", "text": "job 0"}', "no result of fleet route"),
        (b'{"id": "1", "job": "0123456789abcdef", "decision": nu', "no result of fleet route"),
        (b'{"id": "1"}\n', "no result of fleet route"),
        (b'{"id": "1", "job": "0123", "error": null, "bad_job": false}\n', "another job"),
    ],
)
def test_a_file_of_something_else_is_left_alone(
    parrot: Parrot, there: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / "jobs.jsonl").write_text(many(2))
    out = tmp_path / "out.jsonl"
    out.write_bytes(there)
    ran = route("--file", "jobs.jsonl", "--output", "out.jsonl")
    assert ran.exit_code == 2
    assert words in ran.stderr
    assert out.read_bytes() == there
    assert parrot.asked == []


@pytest.mark.parametrize("text", ["job without a newline", '{"text": "one"}', '{"text": "one"}\n'])
def test_the_file_of_the_jobs_is_never_the_output(parrot: Parrot, text: str, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(text)
    (tmp_path / "link.jsonl").symlink_to("s.jsonl")
    for output in ("s.jsonl", "link.jsonl"):
        ran = route("--file", "s.jsonl", "--output", output)
        assert ran.exit_code == 2
        assert "the file of the jobs itself" in ran.stderr
    assert (tmp_path / "s.jsonl").read_text() == text
    assert parrot.asked == []


def test_an_output_is_made_with_its_first_result_and_no_folder_is(parrot: Parrot, tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text(many(2))
    ran = route("--file", "jobs.jsonl", "--output", "missing/out.jsonl")
    assert ran.exit_code == 2
    assert "folder missing/ does not exist" in ran.stderr
    assert not (tmp_path / "missing").exists()
    parrot.stop_after = 0
    assert route("--file", "jobs.jsonl", "--output", "out.jsonl").exit_code == 130
    assert not (tmp_path / "out.jsonl").exists()


def test_half_a_result_stays_until_there_is_a_whole_one(parrot: Parrot, tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text(many(2))
    command = ("--file", "jobs.jsonl", "--output", "out.jsonl")
    assert route(*command).exit_code == 0
    half = (tmp_path / "out.jsonl").read_bytes()[:-20]
    (tmp_path / "out.jsonl").write_bytes(half)
    parrot.stop_after = 0
    assert route(*command).exit_code == 130
    assert (tmp_path / "out.jsonl").read_bytes() == half


@pytest.mark.parametrize(
    ("arguments", "name"), [(["-"], "standard input"), (["--file", "e.jsonl"], "e.jsonl")]
)
def test_no_jobs_are_told(parrot: Parrot, arguments: list[str], name: str, tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text("\n")
    ran = route(*arguments, stdin="\n\n")
    assert ran.exit_code == 0
    assert f"no jobs in {name}" in ran.stderr


def test_results_for_a_person_are_one_line_each(parrot: Parrot) -> None:
    ran = route("-", stdin=jsonl(LINES))
    lines = click.unstyle(ran.stdout).splitlines()
    assert lines[0].startswith("a  route to sentiment")
    assert lines[1].startswith("2  abstain")
    assert len(lines) == 3


def test_a_line_that_wants_all_tasks_is_not_silently_given_to_one() -> None:
    content = b'{"text": "a", "all": true}\n{"text": "b", "all": false}\n{"text": "c"}\n'
    asked = list(read_lines(io.BytesIO(content), "mood"))
    assert asked[0].job is None
    assert "both all and task" in asked[0].error
    assert [line.job.tasks for line in asked[1:] if line.job is not None] == [("mood",), ("mood",)]
