"""API keys in a file: made, read, revoked. Only their hashes are kept. Knows nothing of requests.

A secret is 256 random bits. One SHA-256 is right for that: salts and slow hashes protect words that people
think of, of which there are few enough to try; here there is nothing to try, and a slow hash before every
request would only help whoever wants to keep the service busy.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

from filelock import FileLock
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fleet.errors import InputError, suggest

KEYS_FILE = ".fleet/keys.json"
"""Where a project's keys are, unless they are said to be elsewhere."""
KEYS_VARIABLE = "FLEET_API_KEYS"
"""Environment variable that may hold what such a file holds."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
LENGTH = 32
"""Bytes of a secret."""


class Key(BaseModel):
    """Who may ask what, and how much. ``name`` may be shown anywhere, the secret is nowhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    per_minute: int | None = Field(default=None, ge=1)
    """Jobs; None is no limit."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The only ones that it may ask; None is all."""
    metrics: bool = False
    """Whether it reads ``/metrics``, and does nothing else."""
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and self.expires <= now

    def opens(self, digest: str) -> bool:
        """Whether ``digest`` is of its secret; takes as long whatever the answer."""
        return hmac.compare_digest(self.sha256, digest)


class KeyFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _each_name_once(self) -> Self:
        names = [key.name for key in self.keys]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two keys are called {', '.join(twice)}")
        return self


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where a service finds its keys."""

    file: str = ""
    inline: str = ""
    """What a file would hold, instead of one."""
    required: bool = False
    """Whether every job needs a key, also while the file holds none; if not, from when there is a file."""

    @classmethod
    def of(cls, root: str | Path, named: str | None, environment: Mapping[str, str]) -> Self:
        """What was named, else what the environment holds, else the project's own file, if there is one."""
        if named:
            return cls(file=str(Path(root) / Path(named).expanduser()), required=True)
        if inline := environment.get(KEYS_VARIABLE):
            return cls(inline=inline, required=True)
        own = Path(root) / KEYS_FILE
        return cls(file=str(own), required=own.exists())

    def read(self) -> tuple[Key, ...]:
        """The keys. Raises ``InputError`` when they cannot be read."""
        if self.inline:
            return parse_keys(self.inline, KEYS_VARIABLE)
        return read_keys(Path(self.file)) if self.required else ()


def hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def find_key(keys: Iterable[Key], secret: str, now: datetime) -> Key | None:
    """The key with this secret, unless its time is over. Compares with each of them, whoever it is."""
    digest = hashed(secret)
    found = [key for key in keys if key.opens(digest)]
    return next((key for key in found if not key.expired(now)), None)


def parse_keys(text: str | bytes, source: str) -> tuple[Key, ...]:
    """What ``source`` holds. Raises ``InputError`` with every fault."""
    try:
        return KeyFile.model_validate_json(text).keys
    except ValidationError as error:
        # Without the values: somebody may have written a secret where its hash belongs.
        faults = [f"{'.'.join(map(str, each['loc'])) or 'keys'}: {each['msg']}" for each in error.errors()]
        advice = "fleet keys new NAME makes a key; it has to be written by nobody"
        raise InputError(f"{source} holds no API keys: {'; '.join(faults[:5])} ({advice})") from None


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a file. Raises ``InputError`` when there is none, or not of this kind."""
    try:
        return parse_keys(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): make a key (fleet keys new NAME), or name the file "
            "that holds them (--keys)"
        ) from error


def add_key(
    path: Path,
    name: str,
    *,
    per_minute: int | None = None,
    tasks: tuple[str, ...] | None = None,
    metrics: bool = False,
    expires: datetime | None = None,
) -> str:
    """Make a key; returns its secret, which is kept nowhere. Raises ``InputError``."""
    secret = f"fleet_{secrets.token_urlsafe(LENGTH)}"
    with _changing(path) as keys:
        if name in keys:
            raise InputError(
                f"{path.name} has a key called {name} already: revoke it first, or take another name"
            )
        try:
            keys[name] = Key(
                name=name,
                sha256=hashed(secret),
                per_minute=per_minute,
                tasks=tasks,
                metrics=metrics,
                created=datetime.now(UTC),
                expires=expires,
            )
        except ValidationError as error:
            faults = "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors())
            raise InputError(f"no such key can be made: {faults} (got {name!r})") from None
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Forget a key. Raises ``InputError`` if there is none of this name."""
    with _changing(path) as keys:
        if name not in keys:
            raise InputError(f"{path.name} has no key called {name}; {suggest(name, keys)}")
        del keys[name]


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, Key]]:
    """The keys by name; what was made of them is written at the end, by one command at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        keys = {key.name: key for key in read_keys(path)} if path.exists() else {}
        yield keys
        fresh = path.with_name(f"{path.name}.new")
        fresh.unlink(missing_ok=True)
        # Created so that nobody else may read it, not made so afterwards.
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  # a descriptor
            file.write(KeyFile(keys=tuple(keys.values())).model_dump_json(indent=1) + "\n")
        fresh.replace(path)
