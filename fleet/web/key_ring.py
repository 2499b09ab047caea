"""The keys that a running service accepts, with a file that changes under it. Knows nothing of requests."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fleet.errors import InputError
from fleet.web.keys import Key, KeySource, find_key, read_keys

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the file."""


class KeyRing:
    """For one event loop. A look is one ``stat`` a second at most, and only when somebody asks."""

    def __init__(self, source: KeySource, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ``InputError`` when keys are required and cannot be read."""
        self._file = None if source.inline or not source.file else Path(source.file)
        self._clock = clock
        self._required = source.required
        # A file that has come since the source was made is as good as one that comes later.
        self._seen = _mark(self._file) if source.required else None
        self._keys = source.read()
        self._looked = clock() if source.required else -math.inf
        self._fault = ""

    @property
    def required(self) -> bool:
        """Whether jobs need a key; once they do, they always will, also when the file has gone."""
        self._look()
        return self._required

    def find(self, secret: str) -> Key | None:
        """The key with this secret."""
        self._look()
        return find_key(self._keys, secret, datetime.now(UTC))

    def _look(self) -> None:
        if self._file is None or self._clock() - self._looked < LOOK_SECONDS:
            return
        self._looked = self._clock()
        mark = _mark(self._file)
        if mark == self._seen:
            return
        if mark is None:
            # Whoever takes the file away wants nobody to come in.
            self._keys, self._seen = (), mark
            log.warning("%s has gone: no API key is accepted", self._file)
            return
        self._required = True
        try:
            self._keys = read_keys(self._file)
        except InputError as error:  # looked at again, as a disk may have been away
            if self._fault != str(error):
                log.error("the API keys from before go on: %s", error)
            self._fault = str(error)
            return
        self._seen, self._fault = mark, ""
        log.info("%d API keys are accepted: %s", len(self._keys), ", ".join(k.name for k in self._keys))


def _mark(file: Path | None) -> tuple[int, int, int] | None:
    """Changes when the file does; None without a file."""
    if file is None:
        return None
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    except OSError:  # a disk that is away has changed nothing
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)
