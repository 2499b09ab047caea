from __future__ import annotations

from pathlib import Path

import pytest

from fleet.engine.digest import folder_digest


def _folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_the_digest_is_of_names_and_bytes_and_nothing_else(tmp_path: Path) -> None:
    files = {"a": b"1", "sub/b": b"2"}
    one = _folder(tmp_path / "one", files)
    two = _folder(tmp_path / "two", dict(reversed(files.items())))
    assert folder_digest(one) == folder_digest(two)


@pytest.mark.parametrize(
    "other",
    [{"a": b"12", "b": b"3"}, {"a": b"1", "c": b"23"}, {"a": b"1"}, {"a": b"", "b": b"123"}, {"ab": b"123"}],
)
def test_any_difference_changes_the_digest(tmp_path: Path, other: dict[str, bytes]) -> None:
    same = _folder(tmp_path / "same", {"a": b"1", "b": b"23"})
    assert folder_digest(_folder(tmp_path / "other", other)) != folder_digest(same)


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "folder", {"a": b"1"})
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="symbolic link"):
        folder_digest(folder)
