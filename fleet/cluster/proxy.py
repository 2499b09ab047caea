"""What is said of a request that is given up, as the ingress dies or ends: that it may be sent again.

Serve and uvicorn would end such a request with a bare 500. The proxy loads this file by the name in
``CALLBACK``, so it imports little. Knows nothing of jobs.
"""

from __future__ import annotations

import sys

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONG_MESSAGES = {"RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1)}
"""What is too long was refused before; gRPC's own limit is the size of a request that is let in."""
CALLBACK = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "fleet.cluster.proxy.middlewares",
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    **LONG_MESSAGES,
}
"""In the environment of a Ray node: has its proxy use this file, and speak to the ingress the quicker way."""


def middlewares() -> list[Middleware]:
    """What Serve puts around its proxy."""
    return [Middleware(Unanswered)]


class Unanswered:
    """ASGI middleware: 503 where nothing was said. An answer that has begun just breaks off."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        said = False

        async def listened(message: Message) -> None:
            nonlocal said
            said = True
            await send(message)

        try:
            await self._app(scope, receive, listened)
        finally:  # also when it is cancelled, by a server that ends and waits no longer
            if scope["type"] == "http" and not said and not isinstance(sys.exception(), Exception):
                await _again(scope, receive, send)


async def _again(scope: Scope, receive: Receive, send: Send) -> None:
    # The shape of ``fleet.web.errors``, which costs seconds to import.
    error = {
        "code": "failed",
        "message": "the service was interrupted: send the request again",
        "type": "server_error",
        "param": None,
    }
    await JSONResponse({"error": error}, 503, headers={"Retry-After": "1"})(scope, receive, send)
