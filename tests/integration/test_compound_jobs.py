"""A job that needs several tasks: told of, answered by all of them when asked, and never silently."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import chromium, watched
from click.testing import CliRunner
from click.testing import Result as Ran
from playwright.sync_api import expect
from service import live_service

from fleet import asking
from fleet.cli.main import main
from fleet.host import Host
from fleet.job import Job
from fleet.roster import Roster
from fleet.web.keys import KeySource, add_key
from fleet.web.settings import WebSettings
from fleet.workshop import ASKS, COMPOUND, FOX, RUSSIAN, Workshop, open_shop

SECONDS = 60.0
BOTH = ("story", "mood")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    made = open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)
    made.make("mood", "mood")
    made.make("story", "story")
    made.route({"mood": RUSSIAN, "story": FOX}, ASKS)
    return made


@pytest.fixture
def host(shop: Workshop) -> Host:
    made = Host(shop.base, shop.registry, depth=2, cache=shop.place / "cache")
    roster = Roster.read(shop.registry)
    assert roster.router is not None
    made.champions, made.router = dict(roster.champions), made.check_router(roster.router)
    return made


# ---- a host


def test_nothing_is_run_unless_the_job_says_so(host: Host) -> None:
    for top in (1, 2, 5):
        (result,) = host.answer([Job("1", text=COMPOUND)], top=top)
        assert result.decision is not None
        assert result.decision.kind == "compound"
        assert result.decision.tasks == BOTH
        assert (result.answers, result.error, dict(result.failed)) == ((), None, {})


def test_with_all_every_task_answers_from_one_trunk_pass(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    run = asking.run_trunk

    def counted(model: Any, depth: int, jobs: Any, **options: Any) -> Any:
        passes.append(len(jobs))
        return run(model, depth, jobs, **options)

    monkeypatch.setattr(asking, "run_trunk", counted)
    (result,) = host.answer([Job("1", text=COMPOUND, all=True)])
    assert passes == [1]
    assert result.error is None
    assert tuple(answer.task for answer in result.answers) == BOTH
    for answer in result.answers:
        assert answer.receipt.task == answer.task
        assert answer.receipt.decision == "compound"
        assert answer.receipt.router_version == 1
        assert answer.receipt.digest == host.champions[answer.task].digest
    named = host.answer([Job("1", text=COMPOUND, task=BOTH)])[0]
    assert [each.value for each in named.answers] == [each.value for each in result.answers]


def test_all_changes_nothing_for_a_job_of_one_task(host: Host) -> None:
    texts = [RUSSIAN[3], f"{ASKS['mood'][0]}\n{RUSSIAN[4]}", "14 98", "zzzz"]
    for text in texts:
        plain, every = (host.answer([Job("1", text=text, all=wish)])[0] for wish in (False, True))
        assert every.decision == plain.decision
        assert [a.value for a in every.answers] == [a.value for a in plain.answers]
        assert every.decision is not None
        assert every.decision.kind != "compound"


def test_a_task_without_champion_is_named_and_nothing_is_half_done(host: Host) -> None:
    del host.champions["mood"]
    (told,) = host.answer([Job("1", text=COMPOUND)])
    assert told.decision is not None
    assert told.decision.tasks == BOTH
    assert told.decision.reason == "the job needs story and mood, and there is no champion of mood"
    (result,) = host.answer([Job("1", text=COMPOUND, all=True)])
    assert result.answers == ()
    assert "no champion of mood" in str(result.error)
    assert result.code == "quarantined"


def test_a_quarantined_expert_is_an_error_of_the_whole_job(host: Host) -> None:
    host.quarantine(host.champions["mood"], "damaged")
    (result,) = host.answer([Job("1", text=COMPOUND, all=True)])
    assert [answer.task for answer in result.answers] == ["story"]
    assert result.error == "mood is quarantined: damaged"
    assert result.code == "quarantined"
    assert result.failed == {"mood": "mood is quarantined: damaged"}


def test_who_may_ask_one_of_the_tasks_only_gets_neither(host: Host) -> None:
    for every in (False, True):
        job = Job("1", text=COMPOUND, all=every, allowed=frozenset({"mood"}))
        (result,) = host.answer([job])
        assert (result.code, result.decision, result.answers) == ("forbidden", None, ())
        assert "story" not in str(result.error)
    (result,) = host.answer([Job("1", text=COMPOUND, all=True, allowed=frozenset(BOTH))])
    assert len(result.answers) == 2


def test_why_it_is_compound_is_explained_with_the_words(host: Host) -> None:
    explained = host.explain(Job("1", text=COMPOUND))
    assert explained["decision"] == "compound"
    assert [each["words"] for each in explained["compound"]] == ["tell the fat tale", "разбери их"]
    assert all(each["probability"] >= each["least"] for each in explained["compound"])
    assert "nearest" in explained["otherwise"]
    assert "compound" not in host.explain(Job("1", text=RUSSIAN[3]))


# ---- the web interface

KEYS: Mapping[str, Mapping[str, Any]] = {
    "whole": {},
    "mood": {"tasks": ("mood",)},
    "one": {"per_minute": 1},
    "scraper": {"metrics": True},
}


@pytest.fixture(scope="module")
def clients(shop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, httpx.Client]]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    secrets = {name: add_key(file, name, **options) for name, options in KEYS.items()}
    settings = WebSettings(keys=KeySource(str(file), required=True))
    with live_service(shop, settings) as (address, _), contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(
                httpx.Client(base_url=address, timeout=SECONDS, headers={"Authorization": f"Bearer {secret}"})
            )
            for name, secret in secrets.items()
        }


def asked(client: httpx.Client, body: Any, **headers: str) -> httpx.Response:
    return client.post("/v1/jobs", json=body, headers=headers)


def test_over_http_all_is_asked_for_by_job(clients: Mapping[str, httpx.Client]) -> None:
    client = clients["whole"]
    told = asked(client, {"text": COMPOUND})
    assert told.status_code == 200
    assert told.json()["decision"]["kind"] == "compound"
    assert told.json()["answers"] == []
    done = asked(client, {"text": COMPOUND, "all": True}).json()
    assert [each["task"] for each in done["answers"]] == list(BOTH)
    jobs = [{"text": COMPOUND, "all": True}, {"text": COMPOUND}, {"text": RUSSIAN[3], "all": True}]
    results = asked(client, {"jobs": jobs}).json()["results"]
    assert [len(each["answers"]) for each in results] == [2, 0, 1]
    same = [asked(client, {"text": COMPOUND, "all": True}, **{"Idempotency-Key": "k"}).json() for _ in "ab"]
    assert same[0] == same[1]
    other = asked(client, {"text": COMPOUND}, **{"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "key-reused")
    late = asked(client, {"text": COMPOUND, "all": True, "seconds": 1e-6})
    assert (late.status_code, late.json()["code"]) == (504, "deadline")


def test_all_in_a_stream_ends_with_every_answer(clients: Mapping[str, httpx.Client]) -> None:
    response = asked(clients["whole"], {"text": COMPOUND, "all": True, "stream": True})
    last = json.loads(response.text.strip().split("data: ")[-1])
    assert [each["task"] for each in last["answers"]] == list(BOTH)


def test_all_beside_jobs_says_where_it_belongs(clients: Mapping[str, httpx.Client]) -> None:
    refused = asked(clients["whole"], {"jobs": [{"text": COMPOUND}], "all": True})
    assert refused.status_code == 422
    assert "all is said of each job" in refused.text


@pytest.mark.parametrize("body", [{"text": "x", "all": "yes"}, {"text": "x", "all": True, "task": "mood"}])
def test_all_is_true_or_false_and_of_jobs_that_name_no_task(
    body: Any, clients: Mapping[str, httpx.Client]
) -> None:
    assert asked(clients["whole"], body).status_code == 422


def test_a_key_s_tasks_and_limits_hold(clients: Mapping[str, httpx.Client]) -> None:
    for every in (False, True):
        refused = asked(clients["mood"], {"text": COMPOUND, "all": every})
        assert refused.status_code == 403
        assert "story" not in refused.text
    charged = asked(clients["one"], {"text": COMPOUND, "all": True})
    assert (charged.status_code, charged.json()["error"]["code"]) == (422, "too-many-jobs")
    assert asked(clients["one"], {"text": COMPOUND}).status_code == 200


def test_openai_clients_are_told_which_tasks_it_needs(clients: Mapping[str, httpx.Client]) -> None:
    body = {"model": "fleet", "messages": [{"role": "user", "content": COMPOUND}]}
    response = clients["whole"].post("/v1/chat/completions", json=body)
    assert response.status_code == 422
    content = response.json()
    assert content["error"]["code"] == "compound"
    assert "all: true" in content["error"]["message"]
    assert content["error"]["taskfleet"]["decision"]["tasks"] == list(BOTH)


def test_it_is_counted_as_what_it_is(clients: Mapping[str, httpx.Client]) -> None:
    asked(clients["whole"], {"text": COMPOUND})
    page = clients["scraper"].get("/metrics").text
    assert 'fleet_decisions_total{decision="compound",task="story"}' in page
    assert 'fleet_jobs_total{outcome="compound",task="-"}' in page


def test_the_page_lists_the_tasks_and_asks_them_at_a_click(shop: Workshop) -> None:
    with live_service(shop) as (address, _), chromium() as browser, watched(browser, address) as page:
        page.get_by_role("textbox", name="Text").fill(COMPOUND)
        page.keyboard.press("Control+Enter")
        results = page.locator("#results > li")
        expect(results.first.locator(".decision")).to_contain_text("several tasks the job needs story")
        expect(results.first.get_by_role("region")).to_have_count(0)
        results.first.get_by_role("button", name="Ask story and mood").click()
        expect(results).to_have_count(2)
        expect(results.first.get_by_role("region", name="Answer of story")).to_be_visible()
        expect(results.first.get_by_role("region", name="Answer of mood")).to_be_visible()


# ---- the command line


@pytest.fixture(scope="module")
def project(shop: Workshop) -> Path:
    root = shop.place.parent
    for task in BOTH:
        (root / "tasks" / task).mkdir(parents=True, exist_ok=True)
        (root / "tasks" / task / "task.yaml").touch()
    return root


def route(project: Path, *arguments: str) -> Ran:
    return CliRunner().invoke(main, ["--root", str(project), "route", *arguments])


def test_the_command_line_says_what_to_do_and_does_it_with_all(project: Path) -> None:
    told = route(project, COMPOUND)
    assert told.exit_code == 3
    assert "compound: story and mood" in told.output
    assert "nothing was run: run both with --all" in told.output
    assert "receipt" not in told.output
    done = route(project, COMPOUND, "--all")
    assert done.exit_code == 0
    assert done.output.count("receipt: ") == 2
    assert "nothing was run" not in done.output
    why = route(project, COMPOUND, "--explain")
    assert "words разбери их" in why.output
    wrong = route(project, COMPOUND, "--all", "--task", "mood")
    assert wrong.exit_code == 2
    assert "--all does not go with --task" in wrong.output


def test_in_a_file_all_holds_for_every_line_or_for_those_that_say_so(project: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "jobs.jsonl", tmp_path / "out.jsonl"
    lines = [{"text": COMPOUND}, {"text": COMPOUND, "all": True}, {"text": COMPOUND, "all": False}]
    wrong = [{"text": "x", "all": 1}, {"text": "x", "all": True, "task": "mood"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines + wrong))

    def answered(*options: str) -> list[int]:
        assert route(project, "--file", str(file), "--output", str(out), *options).exit_code == 2
        results = [json.loads(line) for line in out.read_text().splitlines()]
        assert [bool(each["error"]) for each in results] == [False, False, False, True, True]
        return [len(each["answers"]) for each in results[:3]]

    assert answered() == [0, 2, 0]
    shutil.move(out, tmp_path / "before.jsonl")
    assert answered("--all") == [2, 2, 0]
    shutil.copy(tmp_path / "before.jsonl", out)
    mixed = route(project, "--file", str(file), "--output", str(out), "--all")
    assert mixed.exit_code == 2
    assert "the result of another job" in mixed.output
