from __future__ import annotations

import pickle
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fleet.errors import FleetError, ProjectError
from fleet.storage import Storage


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return Storage(str(tmp_path / "store"))
    return Storage(f"memory://{tmp_path.name}")


def folder_of(path: Path, **files: str) -> Path:
    for name, text in files.items():
        file = path / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def checkpoint(tmp_path: Path, step: str) -> Path:
    return folder_of(tmp_path / f"at-{step}", **{f"step-{step}__t": step, "latest": f"step-{step}"})


def content(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}


def test_text_is_written_read_and_replaced(storage: Storage) -> None:
    assert not storage.exists("experts/a/outcome.json")
    storage.write_text("experts/a/outcome.json", "één")
    storage.write_text("experts/a/outcome.json", "zwei")
    assert storage.exists("experts/a/outcome.json")
    assert storage.read_text("experts/a/outcome.json") == "zwei"
    with pytest.raises(FileNotFoundError):
        storage.read_text("experts/b/outcome.json")


def test_a_folder_comes_back_as_it_was(storage: Storage, tmp_path: Path) -> None:
    storage.upload(folder_of(tmp_path / "one", a="1", sub__b="2"), "experts/t/artifact")
    assert storage.exists("experts/t/artifact")
    storage.download("experts/t/artifact", tmp_path / "copy")
    assert content(tmp_path / "copy") == {"a": "1", "sub/b": "2"}


def test_an_upload_replaces_the_whole_folder(storage: Storage, tmp_path: Path) -> None:
    storage.upload(folder_of(tmp_path / "one", a="1", old="x"), "x/y")
    storage.upload(folder_of(tmp_path / "two", a="2", new="z"), "x/y")
    storage.download("x/y", folder_of(tmp_path / "copy", stale="s"))
    assert content(tmp_path / "copy") == {"a": "2", "new": "z"}


def test_a_pointer_is_replaced_with_what_it_points_at(storage: Storage, tmp_path: Path) -> None:
    storage.upload(checkpoint(tmp_path, "1"), "c/k", last="latest")
    storage.upload(checkpoint(tmp_path, "2"), "c/k", last="latest")
    assert storage.exists("c/k/latest")
    storage.download("c/k", tmp_path / "copy")
    assert content(tmp_path / "copy") == {"step-2/t": "2", "latest": "step-2"}


def test_what_is_removed_is_absent(storage: Storage, tmp_path: Path) -> None:
    storage.upload(folder_of(tmp_path / "one", a="1"), "x/y")
    storage.write_text("x/z", "z")
    storage.remove("x/y")
    storage.remove("x/z")
    storage.remove("x/never")
    assert not storage.exists("x/y")
    assert not storage.exists("x/z")
    with pytest.raises(FileNotFoundError):
        storage.download("x/y", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_nothing_half_made_is_left_in_a_local_folder(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "store"))
    for text in ("1", "2"):
        storage.upload(folder_of(tmp_path / "one", a=text), "x/y")
        storage.write_text("x/t", text)
    place = storage.local("x")
    assert place is not None
    assert content(place) == {"y/a": "2", "t": "2"}
    assert sorted(p.name for p in place.iterdir()) == ["t", "y"]


def test_a_remote_upload_cut_short_looks_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(f"memory://{tmp_path.name}")
    storage.upload(folder_of(tmp_path / "one", a="1", b="1"), "x/y")
    put = MemoryFileSystem.put_file

    def broken(self: MemoryFileSystem, source: str, target: str, **more: object) -> None:
        if target.endswith("/b"):
            raise OSError("connection lost")
        put(self, source, target, **more)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", broken)
        with pytest.raises(OSError, match="connection lost"):
            storage.upload(folder_of(tmp_path / "two", a="2", b="2"), "x/y")
    assert not storage.exists("x/y")


def test_a_remote_pointer_upload_cut_short_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(f"memory://{tmp_path.name}")
    storage.upload(checkpoint(tmp_path, "1"), "c/k", last="latest")

    def broken(self: MemoryFileSystem, source: str, target: str, **more: object) -> None:
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", broken)
        with pytest.raises(OSError, match="connection lost"):
            storage.upload(checkpoint(tmp_path, "2"), "c/k", last="latest")
    storage.download("c/k", tmp_path / "copy")
    assert content(tmp_path / "copy") == {"step-1/t": "1", "latest": "step-1"}


def test_a_download_during_a_replacement_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(f"memory://{tmp_path.name}")
    storage.upload(checkpoint(tmp_path, "1"), "c/k", last="latest")
    get = MemoryFileSystem.get_file
    replaced = []

    def meanwhile(self: MemoryFileSystem, source: str, target: str, **more: object) -> None:
        if not replaced:
            replaced.append(True)
            newer = checkpoint(tmp_path, "2")
            storage.upload(newer, "c/k", last="latest")
        get(self, source, target, **more)

    monkeypatch.setattr(MemoryFileSystem, "get_file", meanwhile)
    storage.download("c/k", tmp_path / "copy")
    assert content(tmp_path / "copy") == {"step-2/t": "2", "latest": "step-2"}


def test_a_damaged_remote_folder_is_refused(tmp_path: Path) -> None:
    storage = Storage(f"memory://{tmp_path.name}")
    storage.upload(folder_of(tmp_path / "one", a="1", b="1"), "x/y")
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}/x/y/b")
    with pytest.raises(FleetError, match="damaged"):
        storage.download("x/y", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_it_pickles_and_a_relative_folder_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(pickle.dumps(Storage("store")))
    assert again.local("x") == tmp_path / "store" / "x"
    assert Storage((tmp_path / "store").as_uri()).local("x") == tmp_path / "store" / "x"
    assert pickle.loads(pickle.dumps(Storage("memory://x/"))).address == "memory://x"


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a\\b"])
def test_names_stay_inside(storage: Storage, name: str) -> None:
    with pytest.raises(ValueError, match="stays inside"):
        storage.exists(name)


def test_an_unknown_address_says_what_to_do() -> None:
    with pytest.raises(ProjectError, match="install what opens"):
        Storage("nosuch://u:secret@host/path")


def test_credentials_are_not_shown() -> None:
    assert str(Storage("ftp://me:secret@host/path")) == "ftp://host/path"
