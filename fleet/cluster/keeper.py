"""A listening socket that outlives who answers on it: whoever comes meanwhile waits, and is not refused.

As a service manager does with sockets that it has opened itself. Lent to processes of this user and machine
only. Knows nothing of what comes over it.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
import weakref
from pathlib import Path

from fleet.errors import ClusterError

BACKLOG = 2048
"""Connections that wait for somebody to answer, if the system lets so many."""
LEND_SECONDS = 5.0


class SocketKeeper:
    """Keeps one socket open for as long as it is there itself."""

    def __init__(self, host: str, port: int) -> None:
        """Listen. Raises ``ClusterError`` when the port cannot be had."""
        self._door = _listening(host, port)
        place = Path(tempfile.mkdtemp(prefix="fleet-"))  # nobody else gets in there
        self.path = str(place / "door")
        """Where the socket is lent; see ``borrowed``."""
        lending = socket.socket(socket.AF_UNIX)
        lending.bind(self.path)
        lending.listen()
        threading.Thread(target=_lend, args=(lending, self._door), name="fleet-door", daemon=True).start()
        self.close = weakref.finalize(self, _close, self._door, lending, place)
        """Keep it no longer."""


def borrowed(path: str) -> socket.socket:
    """The socket that is kept there. Raises ``ClusterError`` when nobody keeps it any more."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(LEND_SECONDS)
            line.connect(path)
            _, handles, _, _ = socket.recv_fds(line, 1, 1)
    except OSError as error:
        raise ClusterError(f"the socket to listen on is not lent at {path}: {error}") from error
    return socket.socket(fileno=handles[0])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        both = address[0] == "::" and socket.has_dualstack_ipv6()  # IPv4 too, as with any other server
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        raise ClusterError(
            f"port {port} on {host} cannot be used ({error.strerror}); choose another (--port)"
        ) from error


def _lend(lending: socket.socket, door: socket.socket) -> None:
    while True:
        try:
            line, _ = lending.accept()
        except OSError:  # closed
            return
        with line:
            try:
                socket.send_fds(line, [b"."], [door.fileno()])
            except OSError:  # who asked has gone
                continue


def _close(door: socket.socket, lending: socket.socket, place: Path) -> None:
    with lending, door, contextlib.suppress(OSError):
        lending.shutdown(socket.SHUT_RDWR)  # closing alone would not wake who waits in accept
    shutil.rmtree(place, ignore_errors=True)
