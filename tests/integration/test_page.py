"""The page for people over a tiny fleet, through a real port, in a real headless Chromium."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import MILLISECONDS, chromium, watched
from playwright.sync_api import Browser, Locator, Page, expect
from service import listening, live_service
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fleet.engine.decode import Completion, Scheduler
from fleet.roster import Roster
from fleet.web.app import make_app
from fleet.web.backend import Backend, ServiceState
from fleet.web.keys import KeySource, add_key
from fleet.web.local import LocalBackend
from fleet.web.settings import WebSettings
from fleet.workshop import FOX, GREEK, KINDS, RUSSIAN, Workshop, open_shop

SECONDS = 60.0
UNSURE = "once upon a time the odd cat"
"""The router cannot tell whether it is a story or a record."""
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    expect.set_options(timeout=MILLISECONDS)
    yield
    expect.set_options(timeout=None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    made = open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)
    for kind in ("mood", "record", "story", "letter"):
        made.make(kind, kind)
    made.make("broken", card=lambda card: card.update(base_fingerprint=EVIL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "evil", {"kind": "classification", "labels": [EVIL, f"{EVIL}2"]})  # type: ignore[arg-type]
        made.make("evil", "evil")
    made.route({"mood": RUSSIAN, "story": FOX + GREEK, "record": FOX + GREEK})
    return made


@pytest.fixture(scope="module")
def service(shop: Workshop) -> Iterator[tuple[str, LocalBackend]]:
    with live_service(shop) as made:
        yield made


@pytest.fixture
def page(browser: Browser, service: tuple[str, LocalBackend]) -> Iterator[Page]:
    with watched(browser, service[0]) as opened:
        yield opened


def send(page: Page, text: str, task: str | None = None) -> Locator:
    """Type a job and send it with the keyboard; the place of its result."""
    if task is not None:
        page.get_by_role("combobox", name="Expert").select_option(task)
    page.get_by_role("textbox", name="Text").fill(text)
    page.keyboard.press("Control+Enter")
    newest = page.locator("#results > li").first
    expect(newest.locator(".asked")).to_have_text(text)
    return newest


def expert(page: Page, task: str) -> Locator:
    return page.locator(f'#experts > li[data-task="{task}"]')


# ---- jobs


def test_a_typed_job_shows_its_route_with_reasons_its_answer_and_its_receipt(
    page: Page, shop: Workshop
) -> None:
    result = send(page, RUSSIAN[3])
    expect(result.locator(".decision")).to_contain_text("routed mood probability ")
    expect(result.get_by_role("list", name="Candidates").get_by_role("listitem")).to_have_count(3)
    expect(result.get_by_role("meter", name="probability of mood")).to_be_visible()
    answer = result.get_by_role("region", name="Answer of mood")
    expect(answer.locator(".value")).to_have_text(re.compile("good|goodish|🎉 שלום|bad"))
    expect(answer.get_by_role("meter", name="confidence")).to_be_visible()
    receipt = answer.locator(".receipt")
    for said in ("mood version 1", "decided by router 1", "13 in, ", "bf16", "trunk", "expert"):
        expect(receipt).to_contain_text(said)
    expect(page.get_by_role("status").filter(has_text="mood says: ")).to_have_count(1)

    full = shop.registry.resolve("mood", "champion").digest
    digest = receipt.get_by_role("button", name="digest")
    expect(digest).to_have_text(full[:12])
    digest.press("Enter")
    expect(digest).to_have_text(full)


def test_a_record_is_a_table_and_the_chosen_expert_is_asked(page: Page) -> None:
    result = send(page, "Anna met Bo", "record")
    expect(result.locator(".decision")).to_contain_text("named record the job names this task")
    expect(result.get_by_role("rowheader")).to_have_text(["who", "code"])


def test_a_job_that_is_between_two_experts_can_be_sent_to_either(page: Page) -> None:
    asked = send(page, UNSURE)
    expect(asked.locator(".decision")).to_contain_text("would need a probability")
    asked.get_by_role("button", name="Ask record").click()
    results = page.locator("#results > li")
    expect(results).to_have_count(2)
    expect(results.first.get_by_role("region", name="Answer of record")).to_be_visible()


def test_a_job_for_nobody_is_given_to_nobody_and_says_why(page: Page) -> None:
    result = send(page, "Anna met Bo")
    expect(result.locator(".decision")).to_contain_text("no expert fits: fit")
    expect(result.get_by_role("region")).to_have_count(0)


def test_several_experts_answer_when_several_are_asked(page: Page) -> None:
    page.get_by_role("combobox", name="Answers from").select_option("2")
    result = send(page, UNSURE)
    expect(result.get_by_role("region")).to_have_count(2)


def test_a_story_appears_as_it_is_written_and_can_be_stopped(
    browser: Browser, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, steps = threading.Event(), iter(range(1000))
    step = Scheduler.step

    def held(self: Scheduler) -> list[Completion]:
        if next(steps) >= 8:
            assert go_on.wait(SECONDS)
        return step(self)

    with live_service(shop) as (address, _), watched(browser, address) as page:
        monkeypatch.setattr(Scheduler, "step", held)
        result = send(page, "Anna met Bo", "story")
        expect(result.locator(".writing")).to_have_text(re.compile(r"\S"))
        expect(result.get_by_role("region")).to_have_count(0)
        begun = result.locator(".writing").inner_text()
        go_on.set()
        expect(result.get_by_role("region", name="Answer of story").locator(".value")).to_contain_text(begun)

        go_on.clear()
        steps = iter(range(1000))
        result = send(page, "Anna met Bob", "story")
        expect(result.locator(".writing")).to_have_text(re.compile(r"\S"))
        page.get_by_role("button", name="Stop").click()
        expect(result).to_contain_text("stopped")
        go_on.set()
        expect(page.locator("#service")).to_contain_text("0 jobs in work")
        expect(page.get_by_role("button", name="Send")).to_be_enabled()


@pytest.mark.parametrize(
    ("text", "task", "code", "said", "advice"),
    [
        ("x", "broken", "quarantined", "trained over base", "The list of experts says why"),
        ("a " * 3000, "mood", "bad-job", "mood takes 24", "Change the job"),
    ],
)
def test_what_goes_wrong_is_said_with_what_to_do(
    page: Page, text: str, task: str, code: str, said: str, advice: str
) -> None:
    result = send(page, text, task)
    notice = result.locator(".notice.bad")
    expect(notice.locator("strong")).to_have_text(code)
    expect(notice).to_contain_text(said)
    expect(notice).to_contain_text(advice)
    notice.get_by_role("button", name="Send again").click()
    expect(page.locator("#results > li .notice.bad")).to_have_count(2)


def test_nothing_that_is_typed_answered_or_reported_becomes_html(page: Page) -> None:
    label = send(page, "<img src=x onerror=a()>", "evil")
    expect(label.locator(".value")).to_contain_text(EVIL)
    reason = send(page, "x", "broken")
    expect(reason.locator(".notice")).to_contain_text(f"trained over base {EVIL[:12]}")
    expect(expert(page, "broken").locator(".notice")).to_contain_text(EVIL[:12])
    expect(page.locator("main img, main script")).to_have_count(0)


# ---- experts, live


def test_experts_are_listed_with_their_state_and_why_one_must_not_answer(page: Page) -> None:
    expect(expert(page, "mood").locator(".badge")).to_have_text("ready")
    expect(expert(page, "mood")).to_contain_text("version 1")
    expect(expert(page, "broken").locator(".badge")).to_have_text("quarantined")
    expect(expert(page, "broken").locator(".notice")).to_contain_text("trained over base")
    expect(page.locator("#summary")).to_have_text("1 quarantined, 5 ready")
    expect(page.locator("#service")).to_have_text("1 replica · router 1 · 0 jobs in work")


def test_promotions_show_without_reloading(
    browser: Browser, shop: Workshop, service: tuple[str, LocalBackend]
) -> None:
    address, backend = service
    registry = shop.registry
    second = shop.make("story", "story", seed=1, promote=False)
    third = shop.make(
        "story",
        "story",
        seed=2,
        promote=False,
        spoil=lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"),
    )
    with watched(browser, address) as page:
        row = expert(page, "story")
        expect(row).to_contain_text("version 1")
        registry.set_alias("story", "champion", second.version)
        backend.follow(Roster.read(registry))
        expect(row).to_contain_text("version 2")
        expect(page.get_by_role("status").filter(has_text="story is answered by version 2")).to_have_count(1)
        result = send(page, "Anna met Bo", "story")
        expect(result.locator(".receipt")).to_contain_text("story version 2")

        registry.set_alias("story", "champion", third.version)
        backend.follow(Roster.read(registry))
        expect(row.locator(".badge")).to_have_text("version 3 refused")
        expect(row.locator(".notice")).to_contain_text("cannot be read")
        expect(row).to_contain_text("version 2")

        shop.make("fresh", "mood")
        backend.follow(Roster.read(registry))
        expect(expert(page, "fresh").locator(".badge")).to_have_text("ready")
        page.get_by_role("combobox", name="Expert").select_option("fresh")
        registry.delete_alias("fresh", "champion")
        registry.set_alias("story", "champion", second.version)
        backend.follow(Roster.read(registry))
        expect(expert(page, "fresh")).to_have_count(0)
        expect(row.locator(".badge")).to_have_text("ready")
        result = send(page, "x")
        expect(result.locator(".notice strong")).to_have_text("unknown-task")


def test_a_hidden_page_asks_nothing(browser: Browser, service: tuple[str, LocalBackend]) -> None:
    def turn(page: Page, hidden: str) -> None:
        page.evaluate(
            """hidden => {
                Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
                document.dispatchEvent(new Event("visibilitychange"));
            }""",
            hidden == "hidden",
        )

    with watched(browser, service[0]) as page:
        expect(page.locator("#summary")).to_contain_text("ready")
        page.clock.install()
        page.reload()
        expect(page.locator("#summary")).to_contain_text("ready")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.clock.run_for(1600)
        page.wait_for_load_state("networkidle")
        assert len(asked) == 1
        turn(page, "hidden")
        page.clock.run_for(60_000)
        assert len(asked) == 1
        with page.expect_response("**/v1/experts"):
            turn(page, "visible")


class Told(LocalBackend):
    """A backend that says of itself what the test wants."""

    def __init__(self, backend: LocalBackend, **told: Any) -> None:
        super().__init__(backend._live, backend._roster)
        self.told = told

    async def state(self) -> ServiceState:
        return dataclasses.replace(await super().state(), **self.told)


def page_over(backend: Backend) -> Any:
    return make_app(backend, version="0")


def test_a_service_that_is_lost_is_said_to_be_and_is_followed_when_it_is_back(
    browser: Browser, service: tuple[str, LocalBackend]
) -> None:
    app = page_over(service[1])
    with listening(app) as address:
        port = int(address.rpartition(":")[2])
        opened = watched(browser, address, expected="Failed to load resource")
        page = opened.__enter__()
        expect(page.locator("#summary")).to_contain_text("ready")
    try:
        expect(page.get_by_role("alert")).to_contain_text("the service cannot be reached")
        result = send(page, "x")
        expect(result.locator(".notice strong")).to_have_text("unreachable")
        with listening(app, port):
            expect(page.get_by_role("alert")).to_have_count(0)
            result.get_by_role("button", name="Send again").click()
            expect(page.locator("#results > li").first.locator(".decision")).to_be_visible()
    finally:
        opened.__exit__(None, None, None)


def test_what_the_service_lacks_is_said_while_it_lasts(
    browser: Browser, service: tuple[str, LocalBackend]
) -> None:
    backend = Told(service[1], registry_fault=f"{EVIL} is locked", router_fault="it is for another base")
    with listening(page_over(backend)) as address, watched(browser, address) as page:
        faults = page.locator("#faults")
        expect(faults).to_contain_text(f"The registry cannot be asked, what was known last goes on: {EVIL}")
        expect(faults).to_contain_text("The router: it is for another base.")
        backend.told = {}
        expect(faults).to_be_hidden()


def test_an_expert_with_several_fields_is_asked_for_each(page: Page) -> None:
    page.get_by_role("textbox", name="Text").fill("hello")
    page.get_by_role("combobox", name="Expert").select_option("letter")
    expect(page.get_by_role("textbox", name="subject")).to_have_value("hello")
    page.get_by_role("textbox", name="body").fill("bye")
    page.keyboard.press("Control+Enter")
    result = page.locator("#results > li").first
    expect(result.locator(".asked")).to_have_text("subject: hello body: bye")
    expect(result.get_by_role("region", name="Answer of letter")).to_be_visible()
    page.get_by_role("combobox", name="Expert").select_option("")
    expect(page.get_by_role("textbox", name="Text")).to_have_value("hello\nbye")


def test_a_key_that_is_asked_for_is_kept_for_the_tab_and_sent(
    browser: Browser, service: tuple[str, LocalBackend], tmp_path: Path
) -> None:
    secret = add_key(tmp_path / "keys.json", "someone")
    settings = WebSettings(keys=KeySource(str(tmp_path / "keys.json"), required=True))
    with (
        listening(make_app(service[1], version="0", settings=settings)) as address,
        watched(browser, address, expected="401 (Unauthorized)") as page,
    ):
        page.get_by_label("This fleet asks for an API key").fill(secret)
        page.keyboard.press("Enter")
        expect(page.locator("#summary")).to_contain_text("ready")
        expect(send(page, RUSSIAN[3]).locator(".receipt")).to_be_visible()
        page.reload()
        expect(page.locator("#summary")).to_contain_text("ready")
        page.get_by_role("button", name="Another key").click()
        page.get_by_label("This fleet asks for an API key").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_label("This fleet asks for an API key")).to_be_visible()


def test_an_overloaded_service_says_when_to_come_back(
    browser: Browser, service: tuple[str, LocalBackend]
) -> None:
    app = page_over(service[1])
    refused = iter([True])

    @app.middleware("http")
    async def gate(request: Request, go_on: Any) -> Response:
        if request.url.path == "/v1/jobs" and next(refused, False):
            error = {"code": "rate-limited", "message": "10 jobs a minute"}
            return JSONResponse({"error": error}, 429, {"Retry-After": "1"})
        response: Response = await go_on(request)
        return response

    with listening(app) as address, watched(browser, address, expected="429 (Too Many Requests)") as page:
        result = send(page, RUSSIAN[3])
        expect(result.locator(".notice")).to_contain_text("rate-limited 10 jobs a minute")
        expect(result.get_by_role("button")).to_have_text("Send again in 1 s")
        result.get_by_role("button", name=re.compile("^Send again$")).click()
        expect(page.locator("#results .receipt")).to_be_visible()


def test_a_challenger_is_shown_beside_its_champion_as_it_compares(browser: Browser, shop: Workshop) -> None:
    rival = shop.make("story", "story", seed=3, promote=False)
    shop.registry.set_alias("story", "challenger", rival.version)
    try:
        with live_service(shop, shadow=1.0) as (address, _), watched(browser, address) as page:
            beside = expert(page, "story").locator(".challenger")
            expect(beside).to_have_text(f"challenger: version {rival.version} · ready")
            send(page, FOX[0], "story")
            expect(beside).to_contain_text(re.compile(r"as version \d+ on 0% of 1 jobs"))
            expect(expert(page, "mood").locator(".challenger")).to_be_hidden()
    finally:
        shop.registry.delete_alias("story", "challenger")
