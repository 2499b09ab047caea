"""The one content digest of an artifact folder. Knows nothing of what the files mean.

Standard library only, so that whoever checks a digest need not load torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_CHUNK = 1 << 20


def folder_digest(folder: Path) -> str:
    """SHA-256 (hex) over the names and bytes of every file below ``folder``, sorted by name.

    Each name and each content is preceded by its length, so no two folders share a stream.
    Symbolic links are refused with ``ValueError``: they could point outside.
    """
    total = hashlib.sha256()
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for name in sorted(files):
        path = files[name]
        if path.is_symlink():
            raise ValueError(f"{name} is a symbolic link; an artifact holds plain files only")
        if path.is_dir():
            continue
        encoded = name.encode()
        total.update(len(encoded).to_bytes(8, "big") + encoded)
        total.update(path.stat().st_size.to_bytes(8, "big"))
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                total.update(chunk)
    return total.hexdigest()
