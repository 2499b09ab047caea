"""An ASGI application on a socket, in the event loop that runs. Knows nothing of what it answers."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp

KEEP_ALIVE_SECONDS = 90
"""How long a connection stays that nothing comes over: longer than a proxy in front would keep it, which may
send the next request just as it is closed."""
PARTING_SECONDS = 20
"""How long requests may take still that are being answered at the end."""


class Listener:
    """One server; for one event loop."""

    def __init__(self, app: ASGIApp) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=PARTING_SECONDS,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self, door: socket.socket) -> None:
        """Answer what comes to ``door``, which listens and is this server's from now on.

        Raises what the server raises, when it does not start.
        """
        self._serving = asyncio.create_task(self._server.serve([door]))
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
                raise RuntimeError("the server has ended before it has begun")
            await asyncio.sleep(0.01)

    @property
    def running(self) -> bool:
        """Whether it has started and not ended, by itself or otherwise."""
        return self._serving is not None and not self._serving.done()

    def end(self) -> None:
        """Take nothing more."""
        self._server.should_exit = True

    async def stop(self) -> None:
        """Take nothing more, and give what is being answered a little time."""
        self.end()
        if self._serving is not None:
            await asyncio.wait({self._serving})
