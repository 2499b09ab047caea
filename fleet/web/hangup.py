"""Work ends when its client goes away, so that its place is free. Knows nothing of what is done.

Servers only say that a client has gone; nobody who does not listen is told.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

DISCONNECT = "http.disconnect"


class Hangup:
    """ASGI middleware: cancels what works on a request that nobody waits for any more."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read, gone = asyncio.Event(), asyncio.Event()
        answered = False

        async def reading() -> Message:
            if read.is_set():
                await gone.wait()
                return {"type": DISCONNECT}
            message = await receive()
            if message["type"] == DISCONNECT:
                gone.set()
            if not message.get("more_body", False):
                read.set()
            return message

        async def listening() -> None:
            await read.wait()
            while not gone.is_set():
                if (await receive())["type"] == DISCONNECT:
                    gone.set()

        async def sending(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                answered = True  # what comes from now on is the server's way to say that all is done
            await send(message)

        work = asyncio.ensure_future(self._app(scope, reading, sending))
        listener = asyncio.ensure_future(listening())
        try:
            await asyncio.wait({work, listener}, return_when=asyncio.FIRST_COMPLETED)
            if answered or work.done():
                await work
        finally:
            for task in (work, listener):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
