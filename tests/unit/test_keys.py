"""API keys: their file, how a running service follows it, and whom the gate lets in."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from fleet.errors import InputError
from fleet.web.caller import caller
from fleet.web.gate import Gate
from fleet.web.key_ring import LOOK_SECONDS, KeyRing
from fleet.web.keys import (
    KEYS_FILE,
    KEYS_VARIABLE,
    KeySource,
    add_key,
    find_key,
    hashed,
    read_keys,
    revoke_key,
)
from fleet.web.loopback import is_loopback

NOW = datetime.now(UTC)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / KEYS_FILE


def ring_of(path: Path, *, required: bool = True) -> tuple[KeyRing, Callable[[], None]]:
    """A ring over a file, and what lets it look again."""
    clock = Clock()
    ring = KeyRing(KeySource(str(path), required=required), clock=clock)

    def later() -> None:
        clock.now += LOOK_SECONDS

    return ring, later


def test_a_secret_opens_its_own_key_and_is_kept_nowhere(path: Path) -> None:
    secrets = {name: add_key(path, name) for name in ("acme", "bolt")}
    assert len(set(secrets.values())) == 2
    keys = read_keys(path)
    for name, secret in secrets.items():
        found = find_key(keys, secret, NOW)
        assert found is not None
        assert found.name == name
        assert secret.removeprefix("fleet_") not in path.read_text()
        assert secret not in repr(keys)
        assert hashed(secret) not in repr(keys)
    for wrong in ("", "acme", secrets["acme"][:-1], secrets["acme"] + "x", hashed(secrets["acme"]), "\udcff"):
        assert find_key(keys, wrong, NOW) is None


def test_the_file_is_for_its_owner_alone_and_nothing_else_is_left(path: Path) -> None:
    before = os.umask(0)
    try:
        add_key(path, "acme")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {each.name for each in path.parent.iterdir()} == {"keys.json", "keys.json.lock"}


def test_a_key_that_is_revoked_or_whose_time_is_over_opens_nothing(path: Path) -> None:
    gone, brief = add_key(path, "gone"), add_key(path, "brief", expires=NOW + timedelta(days=1))
    revoke_key(path, "gone")
    assert find_key(read_keys(path), gone, NOW) is None
    assert find_key(read_keys(path), brief, NOW) is not None
    assert find_key(read_keys(path), brief, NOW + timedelta(days=1)) is None


def test_keys_that_are_made_at_once_are_all_there(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add_key(path, f"key{number}"), range(24)))
    assert len(read_keys(path)) == 24


@pytest.mark.parametrize("name", ["", "-", "a b", "../x", "x" * 64, "fleet\n", "ключ"])
def test_a_name_that_is_none_is_refused(path: Path, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        add_key(path, name)


def test_a_name_that_is_there_or_is_not_there_is_told(path: Path) -> None:
    add_key(path, "acme")
    with pytest.raises(InputError, match="already"):
        add_key(path, "acme")
    with pytest.raises(InputError, match="did you mean acme"):
        revoke_key(path, "acne")


KEY = {"name": "a", "sha256": "0" * 64, "created": "2030-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("", "JSON"),
        ("[]", "keys"),
        ({"keys": [{**KEY, "sha256": "fleet_my-secret"}]}, "keys.0.sha256"),
        ({"keys": [{**KEY, "per_minute": 0}]}, "keys.0.per_minute"),
        ({"keys": [{**KEY, "tasks": []}]}, "keys.0.tasks"),
        ({"keys": [{**KEY, "created": "2030-01-01T00:00:00"}]}, "keys.0.created"),
        ({"keys": [{**KEY, "task": ["mood"]}]}, "keys.0.task"),
        ({"keys": [KEY, KEY]}, "two keys are called a"),
    ],
)
def test_a_file_of_another_kind_is_refused_without_showing_what_it_holds(
    path: Path, held: Any, said: str
) -> None:
    path.parent.mkdir()
    path.write_text(held if isinstance(held, str) else json.dumps(held))
    with pytest.raises(InputError) as caught:
        read_keys(path)
    assert said in str(caught.value)
    assert "keys.json" in str(caught.value)
    assert "my-secret" not in str(caught.value)


def test_keys_come_from_where_was_said_then_the_environment_then_the_project(path: Path) -> None:
    root = path.parents[1]
    assert KeySource.of(root, None, {}) == KeySource(str(path))
    assert KeySource.of(root, None, {}).read() == ()
    add_key(path, "own")
    add_key(root / "other.json", "other")
    inline = {KEYS_VARIABLE: (root / "other.json").read_text()}

    def names(named: str | None, environment: dict[str, str]) -> list[str]:
        source = KeySource.of(root, named, environment)
        assert source.required
        return [key.name for key in source.read()]

    assert names(None, {}) == ["own"]
    assert names(None, inline) == ["other"]
    assert names(".fleet/keys.json", inline) == ["own"]
    with pytest.raises(InputError, match="fleet keys new"):
        names("absent.json", {})
    with pytest.raises(InputError, match=KEYS_VARIABLE):
        names(None, {KEYS_VARIABLE: "fleet_secret"})


def test_a_ring_sees_keys_that_are_made_and_revoked(path: Path) -> None:
    first = add_key(path, "first")
    ring, later = ring_of(path)
    assert ring.find(first) is not None
    second = add_key(path, "second")
    assert ring.find(second) is None
    later()
    assert ring.find(second) is not None
    revoke_key(path, "first")
    later()
    assert ring.find(first) is None


def test_a_ring_requires_keys_from_when_there_is_a_file_and_for_ever(path: Path) -> None:
    ring, later = ring_of(path, required=False)
    assert not ring.required
    secret = add_key(path, "acme")
    later()
    assert ring.required
    assert ring.find(secret) is not None
    path.unlink()
    later()
    assert ring.required
    assert ring.find(secret) is None


def test_a_ring_requires_keys_from_a_file_that_came_between_its_source_and_itself(path: Path) -> None:
    source = KeySource(file=str(path), required=False)
    secret = add_key(path, "acme")
    ring = KeyRing(source)
    assert ring.required
    assert ring.find(secret) is not None
    assert ring.find("another") is None


def test_a_ring_goes_on_with_its_keys_while_the_file_is_broken(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = add_key(path, "acme")
    ring, later = ring_of(path)
    sound = path.read_text()
    path.write_text("{")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            later()
            assert ring.find(secret) is not None
    assert len(caplog.records) == 1
    path.write_text(sound.replace("acme", "bolt"))
    later()
    found = ring.find(secret)
    assert found is not None
    assert found.name == "bolt"


def test_a_service_whose_keys_cannot_be_read_does_not_begin(path: Path) -> None:
    with pytest.raises(InputError):
        ring_of(path)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fleet.example.org", False),
        ("", False),
    ],
)
def test_what_is_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """An application that says who has come in."""
    who = caller.get()
    said = json.dumps([who.name, None if who.tasks is None else sorted(who.tasks)]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})


def ask(
    ring: KeyRing,
    path: str,
    secret: str | None = None,
    host: str = "127.0.0.1",
    *,
    named: str | None = None,
    root: str = "",
) -> httpx.Response:
    """``host`` is the address that it comes to, ``named`` how it was called, ``root`` the prefix of all."""
    headers = {} if secret is None else {"Authorization": secret}
    if named is not None:
        headers["Host"] = named

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app=Gate(tell, ring), root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(get())


def test_without_keys_only_loopback_is_answered(path: Path) -> None:
    ring, _ = ring_of(path, required=False)
    assert ask(ring, "/v1/jobs").json() == ["-", None]
    far = ask(ring, "/v1/jobs", host="192.0.2.7")
    assert far.status_code == 403
    assert far.json()["error"]["code"] == "keys-needed"
    assert ask(ring, "/healthz", host="192.0.2.7").status_code == 200


@pytest.mark.parametrize(
    ("named", "status"),
    [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.example:8000", 403), ("", 403)],
)
def test_without_keys_another_name_for_this_machine_is_not_answered(
    path: Path, named: str, status: int
) -> None:
    ring, _ = ring_of(path, required=False)
    assert ask(ring, "/v1/jobs", named=named).status_code == status


def test_the_gate_reads_paths_below_the_prefix_of_the_interface(path: Path) -> None:
    whole, scraper = add_key(path, "whole"), add_key(path, "scraper", metrics=True)
    ring, _ = ring_of(path)
    assert ask(ring, "/fleet/metrics", f"Bearer {whole}", root="/fleet").status_code == 403
    assert ask(ring, "/fleet/metrics", f"Bearer {scraper}", root="/fleet").status_code == 200
    assert ask(ring, "/fleet/healthz", root="/fleet").status_code == 200
    assert ask(ring, "/fleet/v1/jobs", root="/fleet").status_code == 401


def test_the_gate_lets_in_by_key_and_says_what_is_wrong(path: Path) -> None:
    whole, part = add_key(path, "whole"), add_key(path, "part", tasks=("mood",))
    scraper = add_key(path, "scraper", metrics=True)
    ring, _ = ring_of(path)
    assert ask(ring, "/v1/jobs", f"Bearer {whole}").json() == ["whole", None]
    assert ask(ring, "/v1/jobs", f"bearer  {part}", host="192.0.2.7").json() == ["part", ["mood"]]
    assert ask(ring, "/metrics", f"Bearer {scraper}").json() == ["scraper", []]
    for path_, secret, status in (
        ("/v1/jobs", None, 401),
        ("/v1/jobs", "Bearer", 401),
        ("/v1/jobs", f"Basic {whole}", 401),
        ("/v1/jobs", f"Bearer {whole}x", 401),
        ("/v1/nothing", None, 401),
        ("/metrics", None, 401),
        ("/metrics", f"Bearer {whole}", 403),
        ("/v1/jobs", f"Bearer {scraper}", 403),
    ):
        response = ask(ring, path_, secret)
        assert response.status_code == status
        assert ("www-authenticate" in response.headers) == (status == 401)
        assert response.json()["error"]["message"]
        assert whole not in response.text


@pytest.mark.parametrize("page", ["/healthz", "/readyz", "/docs", "/openapi.json", "/", "/page/app.js"])
def test_probes_and_pages_about_the_interface_need_no_key_and_show_no_expert(path: Path, page: str) -> None:
    secret = add_key(path, "acme")
    ring, _ = ring_of(path)
    assert ask(ring, page).json() == ["-", []]
    assert ask(ring, page, "Bearer wrong").json() == ["-", []]
    assert ask(ring, page, f"Bearer {secret}").json() == ["acme", None]
