"""Hints from a real MLflow server: signed, they make the next look come at once; polling stays the truth."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from service import listening
from watching import Watching, two_moods

from fleet.registry.store import Registry
from fleet.registry.ui import ui_server
from fleet.registry.webhook import webhook, webhook_settings
from fleet.web.app import make_app
from fleet.web.hints import FRESH_SECONDS, PATH, signature
from fleet.web.settings import WebSettings
from fleet.workshop import Workshop

SECONDS = 60.0
SECRET = "only MLflow and we know it"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    return two_moods(tmp_path_factory.mktemp("fleet"), mlflow_template)


@pytest.fixture(scope="module")
def watching(shop: Workshop) -> Iterator[Watching]:
    made = Watching(shop.place.parent, poll_seconds=3600)
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(watching: Watching) -> Iterator[str]:
    app = make_app(watching, version="0", settings=WebSettings(hint_secret=SECRET))
    with listening(app) as made:
        yield made


def send(address: str, *, secret: str = SECRET, at: float | None = None, **changed: str) -> httpx.Response:
    content, timestamp = b'{"entity": "anything"}', str(int(time.time() if at is None else at))
    headers = {
        "X-MLflow-Delivery-Id": "d1",
        "X-MLflow-Timestamp": timestamp,
        "X-MLflow-Signature": signature(secret, "d1", timestamp, content),
        **{f"X-MLflow-{name}": value for name, value in changed.items()},
    }
    return httpx.post(f"{address}{PATH}", content=content, headers=headers, timeout=SECONDS)


def test_a_signed_hint_is_noted(address: str, watching: Watching) -> None:
    before = watching.hints
    assert send(address).status_code == 202
    assert watching.hints == before + 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": "another"},
        {"at": 0.0},
        {"at": -1.0},
        {"Signature": ""},
        {"Signature": "v1,"},
        {"Signature": "v2,AAAA"},
        {"Timestamp": "1"},
        {"Timestamp": "soon"},
        {"Delivery-Id": "d2"},
    ],
)
def test_what_is_not_signed_or_not_fresh_is_refused(
    address: str, watching: Watching, wrong: dict[str, Any]
) -> None:
    before = watching.hints
    response = send(address, **wrong)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "bad-signature"
    assert watching.hints == before


def test_an_old_delivery_cannot_be_sent_again(address: str) -> None:
    assert send(address, at=time.time() - FRESH_SECONDS - 5).status_code == 401
    assert send(address, at=time.time() + FRESH_SECONDS + 5).status_code == 401


def test_without_a_secret_there_is_no_place_for_hints(watching: Watching) -> None:
    with listening(make_app(watching, version="0")) as bare:
        assert send(bare).status_code == 404
    assert SECRET not in repr(WebSettings(hint_secret=SECRET))


def test_an_alias_that_is_set_in_mlflow_is_followed_at_once(
    shop: Workshop, watching: Watching, address: str
) -> None:
    """The watcher polls once an hour: only the webhook can have told it."""
    state = shop.place.parent / ".fleet"
    uri, root = f"sqlite:///{state / 'mlflow.db'}", state / "artifacts"
    settings = webhook_settings(state / "webhook.key")
    assert settings == webhook_settings(state / "webhook.key")
    assert stat.S_IMODE((state / "webhook.key").stat().st_mode) == 0o600
    with ui_server(uri, root, log=state / "ui.log", port=0, settings=settings) as (server, _):
        remote = Registry(server, root, fleet="tiny")
        others = webhook(server, "http://127.0.0.1:9/another", secret="x", owner="another project")
        left = webhook(server, "http://127.0.0.1:9/left-behind", secret="x", owner="this")
        with others, left:
            # A service that was killed has left the second one behind; the next one takes its place.
            with webhook(server, f"{address}{PATH}", secret=SECRET, owner="this"):
                there = {hook.url for hook in remote._client.list_webhooks()}
                assert there == {f"{address}{PATH}", "http://127.0.0.1:9/another"}
                assert watching.roster().champions["mood"].version == 1
                remote.set_alias("mood", "champion", 2)
                gate = threading.Event()
                for _ in range(int(SECONDS * 20)):
                    if watching.roster().champions["mood"].version == 2:
                        break
                    gate.wait(0.05)
                assert watching.roster().champions["mood"].version == 2
            (hook,) = remote._client.list_webhooks()
            assert hook.url.endswith("/another")
