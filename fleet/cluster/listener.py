"""An ASGI application on a socket, in the event loop that runs. Knows nothing of what it answers."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp

KEEP_ALIVE_SECONDS = 90
"""How long a connection stays that nothing comes over: longer than a proxy in front would keep it, which may
send the next request just as it is closed."""
PARTING_SECONDS = 10
"""How long requests may take still that are being answered at the end."""
MOST_CONNECTIONS = 10_000


class Listener:
    """One server; for one event loop."""

    def __init__(self, app: ASGIApp, door: socket.socket) -> None:
        """Begin to answer what comes to ``door``, which listens and is this server's from now on."""
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=PARTING_SECONDS,
            )
        )
        self._serving = asyncio.create_task(self._server.serve([door]))

    @property
    def running(self) -> bool:
        """Whether it has not ended, by itself or otherwise."""
        return not self._serving.done()

    async def stop(self) -> None:
        """Take nothing more, and give what is being answered a little time."""
        self._server.should_exit = True
        await asyncio.wait({self._serving})
