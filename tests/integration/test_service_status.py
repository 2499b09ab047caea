"""What ``fleet status`` says of a running service, and when it takes one for running."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from service import listening
from waiting import until

from fleet.cli.main import main
from fleet.cli.service import service_table
from fleet.cluster.tags import SERVING_TAG, SHADOW_TAG, VersionTags
from fleet.errors import ClusterError
from fleet.following import NO_ROOM
from fleet.host import Host
from fleet.job import Job
from fleet.live import LiveHost
from fleet.plain import plain
from fleet.project import Project
from fleet.registry.store import ROUTER, RunRecord
from fleet.roster import Roster
from fleet.shadow import Shadow
from fleet.stores import open_registry
from fleet.web.backend import ExpertState, ServiceState, service_state
from fleet.whereabouts import announce, local_name, only_service, running_service
from fleet.workshop import RUSSIAN, Workshop, open_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    made = open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)
    for task in ("mood", "record", "story"):
        made.make(task, task)
    made.route({"mood": RUSSIAN, "story": ["Anna met Bo", "hello fox"]})
    return made


@pytest.fixture
def project(shop: Workshop) -> Project:
    return Project.find(shop.place.parent)


@pytest.fixture(scope="module")
def state(shop: Workshop) -> Iterator[tuple[Roster, ServiceState]]:
    """A service whose story's champion and router are broken, and whose mood has a challenger."""
    registry = shop.registry
    sound = Roster.read(registry)

    def spoil(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 64)

    bad = shop.make("story", "story", seed=7, spoil=spoil, promote=False)
    expert = shop.place / "mood-0"  # where a router should be
    router = registry.log_version(ROUTER, expert, RunRecord(), {}, kind="router")
    twin = shop.make("mood", "mood", card=lambda card: card.update(data_digest="o"), promote=False)
    roster = Roster({**sound.champions, "story": bad}, router, {"mood": twin})
    host = Host(shop.base, registry, depth=2, cache=shop.place / "cache")
    live = LiveHost(host, shadow=Shadow(host, 1.0))
    live.open(sound)
    live.follow(roster)

    def now() -> ServiceState:
        return service_state(roster, [live.state()], started=1.0)

    try:
        until(lambda: {e.task: e for e in now().experts}["story"].reason != "" and now().router_fault != "")
        until(lambda: all(c.state == "ready" for c in live.state().challengers))
        live.submit(Job("1", text="Anna met Bo", task="mood"), lambda result: None)
        until(lambda: any(e.challenger and e.challenger.asked for e in now().experts))
        yield roster, now()
    finally:
        live.close()


@pytest.fixture(scope="module")
def address(state: tuple[Roster, ServiceState]) -> Iterator[str]:
    app = FastAPI()

    @app.get("/v1/experts")
    async def experts(request: Request) -> Response:
        if request.headers.get("authorization") != "Bearer k1":
            return JSONResponse({"error": {}}, 401)
        return JSONResponse(plain(state[1]))

    with listening(app) as made:
        yield made


def status(project: Project, *arguments: str, key: str = "k1") -> Result:
    return CliRunner().invoke(
        main, ["--root", str(project.root), "status", *arguments], env={"FLEET_API_KEY": key}
    )


def test_status_shows_who_answers_who_is_refused_and_why(project: Project, address: str) -> None:
    with only_service(project) as place:
        announce(place, address)
        shown = status(project).stdout
        answer: dict[str, Any] = json.loads(status(project, "--json").stdout)["service"]
    assert f"service at {address}: 1 replica," in shown
    assert "version 1 (champion: version 2)" in shown
    assert "be read: SafetensorError" in shown
    assert "router version 2: " in shown
    assert "by name only (fleet router fit)" in shown  # the record, which the router does not know
    assert "version 2: 100% as version 1 on 1 jobs" in shown
    experts = {each["task"]: each for each in answer["state"]["experts"]}
    assert "cannot be read" in experts["story"]["reason"]
    assert experts["mood"]["challenger"]["agreement"] == 1.0
    assert answer["address"] == address


def test_without_a_service_status_is_what_it_was(project: Project) -> None:
    shown = status(project)
    assert shown.exit_code == 0
    assert "service" not in shown.stdout
    assert json.loads(status(project, "--json").stdout)["service"] is None


def test_what_a_killed_service_left_behind_is_not_believed(project: Project, address: str) -> None:
    with only_service(project) as place:
        announce(place, address)
        left = place.read_text()
    place.write_text(left)
    assert running_service(project) is None
    assert "service" not in status(project).stdout
    place.write_text("{")
    assert running_service(project) is None
    place.unlink()


def test_a_project_has_one_service(project: Project) -> None:
    with only_service(project) as place:
        announce(place, "http://127.0.0.1:8123")
        with (
            pytest.raises(ClusterError, match=r"served already \(at http://127.0.0.1:8123, process \d+\)"),
            only_service(project),
        ):
            pass
        assert running_service(project) is not None
    assert not place.exists()
    assert running_service(project) is None


def test_a_service_that_says_nothing_useful_is_named_with_the_reason(project: Project, address: str) -> None:
    assert "set FLEET_API_KEY" in status(project, "--address", address, key="wrong").stdout
    assert "no service of a fleet (404)" in status(project, "--address", f"{address}/elsewhere").stdout
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{door.getsockname()[1]}"
    shown = status(project, "--address", nobody)
    assert shown.exit_code == 1  # somebody has named it
    assert "does not answer within" in shown.stdout
    shown = status(project, "--address", address.removeprefix("http://"))
    assert shown.exit_code == 1
    assert "no address such as http://" in shown.stdout


def test_the_service_is_shown_even_while_the_registry_is_away(project: Project, address: str) -> None:
    database = project.state / "mlflow.db"
    sound = database.read_bytes()
    database.write_bytes(b"this is not a database, it is a text of some length\n" * 40)
    try:
        shown = status(project, "--address", address)
    finally:
        database.write_bytes(sound)
    assert shown.exit_code == 1
    assert f"service at {address}: 1 replica," in shown.output


def test_versions_are_tagged_with_what_became_of_them(
    shop: Workshop, state: tuple[Roster, ServiceState]
) -> None:
    roster, now = state
    tags = VersionTags(shop.registry)
    tags.write(roster, now)
    assert "refused: " in shop.registry.version("story", 2).tags[SERVING_TAG]
    assert "cannot be read" in shop.registry.version("story", 2).tags[SERVING_TAG]
    assert "refused: " in shop.registry.version(ROUTER, 2).tags[SERVING_TAG]
    assert shop.registry.version("mood", 2).tags[SHADOW_TAG].startswith("as version 1 on 1 of 1 jobs; ")
    # They have their aliases no more.
    tags.write(Roster({}, None), ServiceState(1, (), None, "", 0))
    assert shop.registry.version("story", 2).tags[SERVING_TAG] == ""
    assert shop.registry.version(ROUTER, 2).tags[SERVING_TAG] == ""


def test_what_an_earlier_service_said_is_taken_back_once_the_version_is_sound(shop: Workshop) -> None:
    shop.registry.set_tags(shop.registry.version("mood", 1), {SERVING_TAG: "refused: its disk was away"})
    fresh = Project.find(shop.place.parent)
    roster = Roster.read(open_registry(fresh))
    tags = VersionTags(shop.registry)
    tags.write(roster, service_state(roster, []))
    assert shop.registry.version("mood", 1).tags[SERVING_TAG] != ""
    host = Host(shop.base, shop.registry, depth=2, cache=shop.place / "cache")
    live = LiveHost(host)
    live.open(roster)
    try:
        until(lambda: all(each.state == "ready" for each in live.state().standings))
        tags.write(roster, service_state(roster, [live.state()]))
    finally:
        live.close()
    assert shop.registry.version("mood", 1).tags[SERVING_TAG] == ""


def test_a_challenger_that_only_waits_is_not_called_refused(
    shop: Workshop, state: tuple[Roster, ServiceState]
) -> None:
    roster, now = state

    def waiting(expert: ExpertState) -> ExpertState:
        challenger = expert.challenger
        if challenger is None:
            return expert
        return replace(expert, challenger=replace(challenger, state="waiting", reason=NO_ROOM))

    full = replace(now, experts=tuple(waiting(expert) for expert in now.experts))
    VersionTags(shop.registry).write(roster, full)
    assert SERVING_TAG not in shop.registry.version("mood", 2).tags
    why = service_table(plain(full)).columns[-1]
    assert [said for said in why.cells if NO_ROOM in str(said)] != []


@pytest.mark.parametrize(
    ("host", "name"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")],
)
def test_an_address_is_one_that_this_machine_reaches(host: str, name: str) -> None:
    assert local_name(host) == name
