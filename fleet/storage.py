"""The folder that every machine of a fleet reaches: checkpoints, artifacts, outcomes.

An address is a folder or whatever fsspec opens (``s3://bucket/prefix``, ``gs://``, ``memory://``). What
is written here is whole or absent for every reader: local folders are published by rename, elsewhere a
file that says so is written last. Names are relative, with slashes. Knows nothing of what is stored.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from fleet.errors import FleetError, ProjectError

WHOLE = ".whole"
"""Ending of the file beside a remote folder that is written last and lists what belongs to it."""
SNAPSHOT_TRIES = 5


class Storage:
    """A place by its address; pickles as the address alone."""

    def __init__(self, address: str) -> None:
        """Raises ``ProjectError`` for an address that nothing installed can open. Opens no connection."""
        protocol, found, rest = address.partition("://")
        self._folder: Path | None = None
        if not found or protocol in ("file", "local"):
            # Absolute now: a worker has another working directory.
            self._folder = Path(rest if found else address).expanduser().resolve()
            self.address = str(self._folder)
            return
        self.address = address.rstrip("/")
        try:
            fsspec.get_filesystem_class(protocol)
        except (ValueError, ImportError) as error:
            raise ProjectError(
                f"fleet.yaml: storage: {self} cannot be opened ({error}); name a folder that all machines "
                "mount, or install what opens this address on all of them"
            ) from error

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return (Storage, (self.address,))

    def __str__(self) -> str:
        """The address without credentials."""
        head, found, rest = self.address.partition("://")
        where, slash, path = rest.partition("/")
        return f"{head}://{where.rpartition('@')[2]}{slash}{path}" if found else self.address

    def local(self, name: str) -> Path | None:
        """Where ``name`` lies, or would lie, on this machine's file system; None if it is elsewhere."""
        return None if self._folder is None else self._folder / _checked(name)

    def exists(self, name: str) -> bool:
        """Whether there is a file or a whole folder of this name."""
        place = self.local(name)
        if place is not None:
            return place.exists()
        fs, path = self._open(name)
        return bool(fs.isfile(path)) or bool(fs.isfile(path + WHOLE))

    def read_text(self, name: str) -> str:
        """Raises ``FileNotFoundError``."""
        place = self.local(name)
        if place is not None:
            return place.read_text(encoding="utf-8")
        fs, path = self._open(name)
        return bytes(fs.cat_file(path)).decode()

    def write_text(self, name: str, text: str) -> None:
        """Write or replace a file; readers see the old text or the new."""
        place = self.local(name)
        if place is None:
            fs, path = self._open(name)
            _put_bytes(fs, path, text.encode())
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = _beside(place)
        try:
            partial.write_text(text, encoding="utf-8")
            _sync(partial)
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file or folder; nothing happens if there is none."""
        place = self.local(name)
        if place is not None:
            _discard(place)
            return
        fs, path = self._open(name)
        for marker in (path + WHOLE, path):
            with contextlib.suppress(FileNotFoundError):
                fs.rm(marker, recursive=marker == path)

    def upload(self, folder: Path, name: str, *, last: str = "") -> None:
        """Store a folder under ``name``, in place of what is there.

        ``last`` names a file in it that points at the others: it is replaced after the new files are
        there and before the old ones go, so that a reader finds a usable folder at every moment.
        Without it the folder is absent while it is replaced.
        """
        place = self.local(name)
        if place is not None:
            _publish(folder, place)
            return
        fs, path = self._open(name)
        files = _files(folder)
        before = _listing(fs, path)
        if not last:
            with contextlib.suppress(FileNotFoundError):
                fs.rm(path + WHOLE)
        for part, file in files.items():
            if part != last:
                fs.makedirs(f"{path}/{part}".rpartition("/")[0], exist_ok=True)
                fs.put_file(str(file), f"{path}/{part}")
        if last:
            _put_bytes(fs, f"{path}/{last}", files[last].read_bytes())
        for part in before:
            if part not in files:
                with contextlib.suppress(FileNotFoundError):
                    fs.rm(f"{path}/{part}")
        if not last:
            _put_bytes(fs, path + WHOLE, json.dumps(_sizes(files)).encode())

    def download(self, name: str, target: Path) -> None:
        """Make ``target`` a copy of the stored folder; it is replaced if it exists.

        Raises ``FileNotFoundError`` when there is none, ``FleetError`` when it never holds still.
        """
        place = self.local(name)
        if place is not None:
            if not place.is_dir():
                raise FileNotFoundError(f"{self} holds no folder {name}")
            _publish(place, target)
            return
        fs, path = self._open(name)
        partial = _beside(target)
        try:
            for _ in range(SNAPSHOT_TRIES):
                before = _listing(fs, path)
                if not before:
                    raise FileNotFoundError(f"{self} holds no folder {name}")
                shutil.rmtree(partial, ignore_errors=True)
                try:
                    for part in before:
                        (partial / part).parent.mkdir(parents=True, exist_ok=True)
                        fs.get_file(f"{path}/{part}", str(partial / part))
                except FileNotFoundError:
                    continue  # replaced meanwhile: look again
                if _listing(fs, path) == before:
                    _check_whole(fs, path, partial, name)
                    _swap(partial, target)
                    return
            raise FleetError(
                f"{name} in {self} changed during each of {SNAPSHOT_TRIES} downloads: is it written twice?"
            )
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _open(self, name: str) -> tuple[Any, str]:
        fs, root = fsspec.core.url_to_fs(self.address)
        fs.invalidate_cache()  # others write here: a remembered listing would be a lie
        return fs, f"{root.rstrip('/')}/{_checked(name)}"


def _checked(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ValueError(f"a name in storage is relative and stays inside (got {name!r})")
    return str(path)


def _listing(fs: Any, path: str) -> dict[str, str]:
    """Every file below a remote folder with all that the store says of it, so that a change shows."""
    try:
        found = fs.find(path, detail=True)
    except FileNotFoundError:
        return {}
    prefix = str(fs._strip_protocol(path)).rstrip("/") + "/"
    return {
        str(file).removeprefix(prefix): str(sorted((key, str(value)) for key, value in info.items()))
        for file, info in sorted(found.items())
        if str(file).startswith(prefix)
    }


def _files(folder: Path) -> dict[str, Path]:
    return {f.relative_to(folder).as_posix(): f for f in sorted(folder.rglob("*")) if f.is_file()}


def _sizes(files: Mapping[str, Path]) -> dict[str, int]:
    return {part: file.stat().st_size for part, file in files.items()}


def _check_whole(fs: Any, path: str, folder: Path, name: str) -> None:
    """Raise unless the copy is all that was stored, where the store says what that is."""
    try:
        sizes: dict[str, int] = json.loads(fs.cat_file(path + WHOLE))
    except FileNotFoundError:
        return  # stored with ``last``, which speaks for itself
    if (found := _sizes(_files(folder))) != sizes:
        raise FleetError(
            f"{name} in storage is damaged: it holds {found}, stored was {sizes} (bytes by file)"
        )


def _put_bytes(fs: Any, path: str, content: bytes) -> None:
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    partial = f"{path}.{uuid.uuid4().hex}"
    fs.pipe_file(partial, content)
    fs.mv(partial, path)


def _publish(source: Path, target: Path) -> None:
    """Copy a folder beside its place, bring it to the disk, swap it in."""
    partial = _beside(target)
    try:
        shutil.copytree(source, partial)
        for file in partial.rglob("*"):
            _sync(file)
        _swap(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(made: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        _discard(target)
        try:
            made.rename(target)
        except OSError:
            if not target.exists():
                raise
            continue  # another writer was faster: whoever is last wins
        return


def _discard(place: Path) -> None:
    """Take something away in one step, then delete it."""
    gone = _beside(place)
    try:
        place.rename(gone)
    except FileNotFoundError:
        return
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()


def _beside(place: Path) -> Path:
    return place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
