"""The gate: who comes in, by API key. Knows nothing of what is asked, only of where.

Without keys only what has come to a loopback address is answered. That is seen on each request, because
whoever deploys with a Serve config file chooses the address there, where nothing of ours could refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fleet.web.caller import ANYONE, NOBODY, Caller, caller
from fleet.web.errors import Refusal, body
from fleet.web.key_ring import KeyRing
from fleet.web.keys import Key
from fleet.web.loopback import is_loopback
from fleet.web.page import FILES

METRICS = "/metrics"
HINTS = "/v1/registry-hints"
OPEN = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json", HINTS})
"""What needs no key: probes have none, the pages say nothing of this fleet, only how to ask, and MLflow's
hints are signed."""
CALLER = "fleet.caller"
"""Where a request's scope names who has sent it."""


class Gate:
    """ASGI middleware: 401 for who has no key, 403 for what the key is not for."""

    def __init__(self, app: ASGIApp, ring: KeyRing) -> None:
        self._app = app
        self._ring = ring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            known = self._admit(scope)
        except Refusal as no:
            answer = JSONResponse(body(no.code, no.message, status=no.status), no.status, headers=no.headers)
            await answer(scope, receive, send)
            return
        scope[CALLER] = known.name
        token = caller.set(known)
        try:
            await self._app(scope, receive, send)
        finally:
            caller.reset(token)

    def _admit(self, scope: Scope) -> Caller:
        path = _route(scope)
        is_open = path in OPEN or path.startswith(FILES)
        if not self._ring.required:
            if _is_local(scope):
                return ANYONE
            if not is_open:
                raise Refusal(
                    403,
                    "keys-needed",
                    "this service has no API keys, so it answers this machine only, asked as localhost or "
                    "127.0.0.1: make a key (fleet keys new NAME)",
                )
            return NOBODY
        secret = _bearer(scope)
        key = None if secret is None else self._ring.find(secret)
        if key is None:
            if is_open:
                return NOBODY
            raise _no_key(secret is not None)
        scope[CALLER] = key.name  # also of who is refused below
        if key.metrics != (path == METRICS) and not is_open:
            raise _wrong_key(key)
        if key.metrics:
            return Caller(key.name, frozenset())
        tasks = None if key.tasks is None else frozenset(key.tasks)
        return Caller(key.name, tasks, key.per_minute)


def _no_key(sent: bool) -> Refusal:
    if sent:
        why, challenge = (
            "the API key is not known: it was revoked, its time is over, or it is mistyped",
            ('Bearer realm="taskfleet", error="invalid_token"'),
        )
    else:
        why, challenge = (
            "an API key is needed: send it as `Authorization: Bearer KEY`",
            ('Bearer realm="taskfleet"'),
        )
    return Refusal(401, "no-key", why, {"WWW-Authenticate": challenge})


def _wrong_key(key: Key) -> Refusal:
    if key.metrics:
        return Refusal(403, "forbidden", f"the key {key.name} reads {METRICS} and nothing else")
    return Refusal(
        403,
        "forbidden",
        f"{METRICS} shows every task and every key's name, so it has keys of its own: "
        "fleet keys new NAME --metrics",
    )


def _bearer(scope: Scope) -> str | None:
    headers: Mapping[bytes, bytes] = dict(scope["headers"])
    scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and secret.strip() else None


def _route(scope: Scope) -> str:
    """The path below the prefix that whoever deploys may have given the whole interface."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _is_local(scope: Scope) -> bool:
    """Whether it has come to a loopback address, and under such a name.

    A page of somebody else's may have its own name lead to this machine (DNS rebinding), and a proxy in
    front says who was asked for.
    """
    server = scope.get("server")
    if server is not None and not is_loopback(str(server[0]), unknown=True):
        return False
    named = dict(scope["headers"]).get(b"host", b"localhost").decode("latin-1")
    try:
        host = urlsplit(f"//{named}").hostname
    except ValueError:  # no name of anything
        return False
    return is_loopback(host or "")
