"""A tiny fleet behind a real port of this machine, without a cluster."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from fleet.host import Host
from fleet.live import LiveHost
from fleet.roster import Roster
from fleet.shadow import Shadow
from fleet.web.app import make_app
from fleet.web.local import LocalBackend
from fleet.web.settings import WebSettings
from fleet.workshop import RUSSIAN, Workshop, open_shop


@contextmanager
def listening(app: Any, port: int = 0) -> Iterator[str]:
    """An ASGI application on a real port of this machine, in a thread; yields its address."""
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(("127.0.0.1", port))
        door.listen()  # who comes before the server has begun waits for it
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([door],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


def four_experts(root: Path, mlflow_template: Path) -> Workshop:
    """A shop with an expert of each kind, and a router that knows two of them."""
    made = open_shop(root, mlflow_template)
    for kind in ("mood", "record", "story", "letter"):
        made.make(kind, kind)
    made.route({"mood": RUSSIAN, "story": ["Anna met Bo", "hello fox"]})
    return made


@contextmanager
def live_service(
    shop: Workshop, settings: WebSettings | None = None, *, shadow: float = 0.0
) -> Iterator[tuple[str, LocalBackend]]:
    """The web interface over the shop's champions: address and backend."""
    host = Host(shop.base, shop.registry, depth=2, cache=shop.place / "cache")
    live = LiveHost(host, shadow=Shadow(host, shadow) if shadow else None)
    roster = Roster.read(shop.registry)
    live.open(roster)
    try:
        backend = LocalBackend(live, roster)
        with listening(make_app(backend, version="0", settings=settings)) as address:
            yield address, backend
    finally:
        live.close()


def sent(address: str, body: Any, headers: dict[str, str]) -> socket.socket:
    """A request on its way; whoever closes the connection goes away."""
    url = httpx.URL(address)
    content = json.dumps(body).encode()
    head = {"content-type": "application/json", "content-length": str(len(content)), **headers}
    lines = [f"POST /v1/jobs HTTP/1.1\r\nhost: {url.host}\r\n", *(f"{k}: {v}\r\n" for k, v in head.items())]
    line = socket.create_connection((url.host, url.port or 80))
    line.sendall("".join(lines).encode() + b"\r\n" + content)
    return line
