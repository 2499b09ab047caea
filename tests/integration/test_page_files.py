"""The files that the pages are made of, and the docs: served from here, and nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import httpx
import pytest
from browser import MILLISECONDS, chromium, watched
from playwright.sync_api import Browser, expect
from service import live_service

from fleet.workshop import open_shop


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        expect.set_options(timeout=MILLISECONDS)
        yield made
        expect.set_options(timeout=None)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[str]:
    shop = open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)
    shop.make("mood")
    with live_service(shop) as (made, _):
        yield made


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_may_load_nothing_from_elsewhere_and_do_not(
    browser: Browser, address: str, path: str
) -> None:
    response = httpx.get(address + path)
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    with watched(browser, address) as page:
        page.goto(address + path)
        expect(page.get_by_role("heading", level=1)).to_have_text("taskfleet")


def test_no_file_of_a_page_names_another_host(address: str) -> None:
    folder = Path(str(resources.files("fleet.web") / "static"))
    for file in folder.iterdir():
        served = httpx.get(f"{address}/page/{file.name}")
        assert served.status_code == 200
        named = re.findall(r"https?://[^\"'\s)]+", served.text)
        assert set(named) <= {"http://www.w3.org/2000/svg"}, file.name  # a name, never fetched
        assert "innerHTML" not in served.text
    assert httpx.get(f"{address}/page/..%2fpage.py").status_code == 404
    assert httpx.get(f"{address}/redoc").status_code == 404


def test_the_docs_list_every_route_and_shape(browser: Browser, address: str) -> None:
    described = httpx.get(f"{address}/openapi.json").json()
    with watched(browser, address) as page:
        page.goto(f"{address}/docs")
        for route in described["paths"]:
            expect(page.get_by_role("heading", level=3).filter(has_text=route).first).to_be_visible()
        for shape in described["components"]["schemas"]:
            expect(page.get_by_role("heading", level=3, name=shape, exact=True)).to_be_visible()
        expect(page.get_by_role("link", name="OneJob").first).to_have_attribute("href", "#OneJob")
