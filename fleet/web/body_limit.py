"""Requests that are too large are refused before they are read. Knows nothing of what is in them."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet.web.errors import body


class BodyLimit:
    """ASGI middleware: 413 for a body of more than ``max_bytes``, declared or not."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = f"the request is larger than {self._max:,} bytes: send fewer jobs at a time"
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._max:
            await JSONResponse(body("too-large", said), 413)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max:
                raise HTTPException(413, said)  # FastAPI lets no other error through while it reads
            return message

        await self._app(scope, counted, send)
