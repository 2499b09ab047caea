from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fleet.engine.base_folder import check_folder, fingerprint
from fleet.engine.testing import write_tiny_base
from fleet.errors import BaseError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_base(tmp_path / "base")


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def no_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<!doctype html> please log in, then try again")


def header_is_no_json(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"nope")


def header_makes_no_sense(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((9).to_bytes(8, "little") + b'{"a": []}')


def rewrite(folder: Path, **tensors: torch.Tensor | None) -> None:
    file = folder / "model.safetensors"
    held = load_file(file)
    held = {name: value.clone() for name, value in held.items()}
    for key, value in tensors.items():
        name = key.replace("__", ".")
        held.pop(name)
        if value is not None:
            held[name] = value
    save_file(held, file)


DAMAGES: list[tuple[Any, str]] = [
    (cut, "damaged or was not copied to its end"),
    (no_header, "damaged or was not copied to its end"),
    (header_is_no_json, "header is no JSON"),
    (header_makes_no_sense, "makes no sense"),
    (lambda f: rewrite(f, model__norm__weight=None), "lack 1 tensors, the first is model.norm.weight"),
    (lambda f: rewrite(f, model__norm__weight=torch.zeros(3)), "different models"),
    (lambda f: rewrite(f, model__norm__weight=torch.zeros(64, dtype=torch.int8)), "bf16, fp16 or fp32"),
    (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
    (lambda f: (f / "config.json").write_text("[]"), "must be a JSON object"),
    (lambda f: change(f / "config.json", model_type="llama"), r"Gemma 3 text model.*got 'llama'"),
    (lambda f: change(f / "config.json", use_bidirectional_attention=True), "embeds"),
    (lambda f: change(f / "config.json", quantization_config={"bits": 4}), "quantised"),
    (lambda f: change(f / "config.json", head_dim=None), "a size is missing"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_what_is_wrong_with_a_folder_is_said(folder: Path, damage: Any, says: str) -> None:
    check_folder(folder)
    damage(folder)
    with pytest.raises(BaseError, match=says):
        check_folder(folder)


def shard(folder: Path) -> None:
    tensors = list(load_file(folder / "model.safetensors").items())
    half = len(tensors) // 2
    index: dict[str, str] = {}
    for number, part in enumerate((tensors[:half], tensors[half:]), 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file({key: value.clone() for key, value in part}, folder / name)
        index |= {key: name for key, _ in part}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def test_shards_make_a_base_when_all_are_there(folder: Path) -> None:
    shard(folder)
    check_folder(folder)
    assert len(fingerprint(folder)) == 64
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BaseError, match="not here: model-00002"):
        check_folder(folder)


def test_an_index_cannot_point_outside_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BaseError, match="not here"):
        check_folder(folder)


def test_the_fingerprint_is_the_bytes_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    here = fingerprint(folder)
    assert here == fingerprint(write_tiny_base(tmp_path / "again"))
    assert here != fingerprint(write_tiny_base(tmp_path / "other", seed=1))
    change(folder / "config.json", transformers_version="99")
    assert fingerprint(folder) == here
    change(folder / "config.json", rms_norm_eps=1e-5)
    assert fingerprint(folder) != here


def test_the_fingerprint_follows_the_tokenizer(folder: Path) -> None:
    before = fingerprint(folder)
    change(folder / "tokenizer.json", version="2")
    assert fingerprint(folder) != before


def test_bytes_that_change_in_silence_are_found_on_request(folder: Path) -> None:
    before = fingerprint(folder)
    file = folder / "model.safetensors"
    stat = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint(folder) == before
    with pytest.raises(BaseError, match="damaged"):
        fingerprint(folder, verify=True)


@pytest.mark.parametrize("record", ["{", "[]", '{"files": 3}'])
def test_a_spoilt_record_is_only_a_cache(folder: Path, record: str) -> None:
    before = fingerprint(folder)
    (folder / "fingerprint.json").write_text(record)
    assert fingerprint(folder) == before
