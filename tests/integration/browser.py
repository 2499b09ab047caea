"""The machine's own Chromium, headless, and pages of which nothing goes unseen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",  # it refuses to run as root with one, which is who containers are
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MILLISECONDS = 30_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a new, empty profile. Skips the test where the machine has none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("this machine has no Chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched(browser: Browser, address: str, *, expected: str = "\0", **options: Any) -> Iterator[Page]:
    """The page at ``address``, in a profile of its own.

    At the end nothing was said on its console but ``expected``, nothing was thrown, no dialog was opened,
    and no request has left the origin.
    """
    amiss: list[str] = []
    context = browser.new_context(**options)
    try:
        page = context.new_page()
        page.set_default_timeout(MILLISECONDS)
        page.on("console", lambda said: amiss.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: amiss.append(f"thrown: {error}"))
        page.on("dialog", lambda dialog: (amiss.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: request.url.startswith(address) or amiss.append(f"left for {request.url}"),
        )
        page.goto(address)
        yield page
    finally:
        context.close()
    assert [each for each in amiss if expected not in each] == []
