"""Whether anything in a store may have changed, for who would ask it in vain every second.

Knows nothing of what is in it.
"""

from __future__ import annotations

import contextlib
import sqlite3

from fleet.registry.door import sqlite_path

Beat = tuple[int, int, int]
"""Device and inode of the database's file, and SQLite's ``data_version`` as this connection sees it."""


class Pulse:
    """Of one store; for one thread at a time. Costs microseconds where a look costs a second per thousand
    experts."""

    def __init__(self, tracking_uri: str) -> None:
        self._path = sqlite_path(tracking_uri)
        self._file: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None

    def __call__(self) -> Beat | None:
        """Another value after every commit of somebody else's; None where nothing is known: ask the store.

        From https://www.sqlite.org/pragma.html#pragma_data_version, which holds for one connection; another
        file in the same place has a connection of its own.
        """
        if self._path is None:
            return None
        try:
            found = self._path.stat()
            file = found.st_dev, found.st_ino
            if self._connection is None or self._file != file:
                self.close()
                address = f"{self._path.absolute().as_uri()}?mode=ro"
                self._connection = sqlite3.connect(address, uri=True, timeout=0.0, check_same_thread=False)
                self._file = file
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except (OSError, sqlite3.Error):  # locked at this moment, or no database any more
            self.close()
            return None
        return *file, int(version)

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection, self._file = None, None
