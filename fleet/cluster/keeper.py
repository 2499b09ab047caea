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
import time
import weakref
from pathlib import Path

from fleet.errors import ClusterError

BACKLOG = 2048
"""Connections that wait for somebody to answer, if the system lets so many."""
LEND_SECONDS = 5.0
LONGEST_PLACE = 80
"""Of a folder's name in characters, so that a socket's name in it is not too long for the system."""


class SocketKeeper:
    """Keeps one socket open for as long as it is there itself."""

    def __init__(self, door: socket.socket) -> None:
        """Keep ``door``, which listens, and lend it. Raises ``ClusterError`` where no file can be made."""
        root = tempfile.gettempdir()
        try:
            place = Path(tempfile.mkdtemp(prefix="fleet-", dir=root if len(root) < LONGEST_PLACE else "/tmp"))
            lending = socket.socket(socket.AF_UNIX)
            lending.bind(str(place / "door"))
            lending.listen()
        except OSError as error:
            door.close()
            raise ClusterError(f"the socket to listen on cannot be lent in {root}: {error}") from error
        self.path = str(place / "door")
        """Where the socket is lent; see ``borrowed``. Nobody but this user gets in there."""
        self._door = door
        threading.Thread(target=_lend, args=(lending, door), name="fleet-door", daemon=True).start()
        self.close = weakref.finalize(self, _close, door, lending, place)
        """Keep it no longer."""

    def anew(self) -> SocketKeeper:
        """This one; another one of the same socket, if somebody has cleaned away where it is lent."""
        return self if Path(self.path).exists() else SocketKeeper(self._door.dup())


def listening(host: str, port: int) -> socket.socket:
    """A new socket that listens. Raises ``ClusterError`` when the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()  # IPv4 too, as with any other server
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        raise ClusterError(
            f"port {port} on {host} cannot be used ({error.strerror}); choose another (--port)"
        ) from error


def borrowed(path: str) -> socket.socket:
    """The socket that is kept there. Raises ``ClusterError`` when nobody keeps it any more."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(LEND_SECONDS)
            line.connect(path)
            _, handles, _, _ = socket.recv_fds(line, 1, 1)
    except OSError as error:
        raise ClusterError(f"the socket to listen on is not lent at {path}: {error}") from error
    if not handles:
        raise ClusterError(f"the socket to listen on is not lent at {path} any more")
    door = socket.socket(fileno=handles[0])
    door.set_inheritable(False)
    return door


def _lend(lending: socket.socket, door: socket.socket) -> None:
    while True:
        try:
            line, _ = lending.accept()
            with line:
                socket.send_fds(line, [b"."], [door.fileno()])
        except OSError:  # closed; or who asked has gone, or this process has too many files for a moment
            if lending.fileno() < 0:
                return
            time.sleep(0.05)


def _close(door: socket.socket, lending: socket.socket, place: Path) -> None:
    with contextlib.suppress(OSError):
        lending.shutdown(socket.SHUT_RDWR)  # closing alone would not wake who waits in accept
    lending.close()
    door.close()
    shutil.rmtree(place, ignore_errors=True)
