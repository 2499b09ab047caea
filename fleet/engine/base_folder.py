"""A base as a folder on disk: is it whole, is it a Gemma 3, and which one exactly. Loads no tensors.

Knows nothing of where the folder came from, nor of torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fleet.errors import BaseError

__all__ = ["check_folder", "check_text_gemma", "fingerprint", "weight_files"]

log = logging.getLogger(__name__)

RECORD = "fingerprint.json"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"

# What says who wrote config.json, not what the model computes.
VOLATILE = frozenset({"transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache"})
FLOATS = {"BF16": 2, "F16": 2, "F32": 4}
_HEADER_LIMIT = 100_000_000
_PREFIXES = (("language_model.model.", "model."), ("model.language_model.", "model."))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a base, sorted; all shards that its index names, where it has one.

    Raises ``BaseError`` if there are none or one is missing.
    """
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = folder / INDEX
    if not index.is_file():
        raise BaseError(f"{folder}: model.safetensors is missing; a base needs its weights as safetensors.")
    names = sorted(set(map(str, _read_json(index).get("weight_map", {}).values())))
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing or not names:
        raise BaseError(f"{folder}: {INDEX} names weights that are not here: {', '.join(missing) or 'none'}.")
    return [folder / name for name in names]


def check_text_gemma(config: dict[str, Any], where: str) -> None:
    """Raise ``BaseError`` unless ``config.json`` describes a causal Gemma 3, or one's text part."""
    text = config.get("text_config", config)
    kind = text.get("model_type") if isinstance(text, dict) else None
    if kind != "gemma3_text" or config.get("model_type") not in ("gemma3_text", "gemma3"):
        raise BaseError(
            f"{where}: model_type must be gemma3_text, a base is a Gemma 3 text model of any size "
            f"(got {config.get('model_type')!r}). Try google/gemma-3-270m or google/gemma-3-1b-pt."
        )
    if text.get("use_bidirectional_attention"):
        raise BaseError(f"{where}: this Gemma 3 embeds (bidirectional attention); a base must generate text.")
    if "quantization_config" in config:
        raise BaseError(f"{where}: the weights are quantised; a base needs them in bf16 or fp32.")


def check_folder(folder: Path) -> None:
    """Raise ``BaseError`` unless ``folder`` is a whole Gemma 3: configuration, tokenizer, every tensor.

    Reads headers and sizes only (milliseconds); altered bytes inside a tensor are for ``fingerprint``.
    """
    if not folder.is_dir():
        raise BaseError(
            f"{folder}: there is no such folder; a base is a folder, a hub id or a built-in name."
        )
    for name in (CONFIG, TOKENIZER):
        if not (folder / name).is_file():
            raise BaseError(
                f"{folder}: {name} is missing; a base needs {CONFIG}, {TOKENIZER} and its weights."
            )
    config = _read_json(folder / CONFIG)
    check_text_gemma(config, str(folder / CONFIG))
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        shapes.update(_header(file))
    wanted = dict(_wanted(config.get("text_config", config), folder))
    missing = [name for name in wanted if name not in shapes]
    if missing:
        raise BaseError(f"{folder}: the weights lack {len(missing)} tensors, the first is {missing[0]}.")
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise BaseError(
                f"{folder}: {name} must have shape {shape} as {CONFIG} says (got {shapes[name]}); "
                "weights and configuration are of different models."
            )


def fingerprint(folder: Path, *, verify: bool = False) -> str:
    """SHA-256 (hex) over weights, configuration and tokenizer: which base this is, to the bit.

    ``fingerprint.json`` in the folder remembers it for as long as sizes and modification times stay;
    ``verify`` reads every byte again and raises ``BaseError`` if they differ from what it remembers.
    """
    files = [folder / CONFIG, folder / TOKENIZER, *weight_files(folder)]
    stamps = {file.name: [(stat := file.stat()).st_size, stat.st_mtime_ns] for file in files}
    remembered = _remembered(folder / RECORD, stamps)
    if remembered and not verify:
        return remembered
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}:{_digest(file)}\n".encode())
    found = total.hexdigest()
    if remembered and remembered != found:
        raise BaseError(
            f"{folder}: the base is damaged, its bytes changed while sizes and times did not "
            f"(fingerprint {found[:12]}, was {remembered[:12]}). Delete the folder and fetch it again."
        )
    if not remembered:
        _remember(folder / RECORD, {"fingerprint": found, "files": stamps})
    return found


def _remembered(record: Path, stamps: dict[str, list[int]]) -> str:
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""  # absent or half written by some other tool: only a cache
    if not isinstance(known, dict) or known.get("files") != stamps:
        return ""
    return str(known.get("fingerprint", ""))


def _remember(record: Path, value: dict[str, Any]) -> None:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{record.name}-", dir=record.parent)
    except OSError as error:
        log.debug("cannot remember the fingerprint in %s: %s", record.parent, error)
        return
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=1)
        Path(name).chmod(0o644)
        Path(name).replace(record)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        log.debug("cannot remember the fingerprint in %s: %s", record.parent, error)


def _digest(file: Path) -> str:
    if file.name == CONFIG:
        config = {key: value for key, value in _read_json(file).items() if key not in VOLATILE}
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseError(f"{path}: cannot be read as JSON ({error}); fetch the base again.") from error
    if not isinstance(value, dict):
        raise BaseError(f"{path}: must be a JSON object (got {type(value).__name__}).")
    return value


def _header(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a safetensors file, after checking its header against its size.

    Format: https://huggingface.co/docs/safetensors, an 8-byte little-endian length, JSON, then data.
    """
    size = file.stat().st_size
    advice = "the file is damaged or was not copied to its end; fetch it again"
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise BaseError(f"{file}: {advice} (header of {length} bytes in a file of {size}).")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise BaseError(f"{file}: {advice} (its header is no JSON).") from error
    end = 0
    found: list[tuple[str, tuple[int, ...]]] = []
    try:
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, stop = entry["data_offsets"]
            end = max(end, stop)
            shape = tuple(entry["shape"])
            width = FLOATS.get(entry["dtype"])
            if width is None:
                raise BaseError(f"{file}: {name} must be bf16, fp16 or fp32 (got {entry['dtype']}).")
            if stop - start != width * math.prod(shape):
                raise BaseError(f"{file}: {advice} ({name} has {stop - start} bytes for shape {shape}).")
            for long, short in _PREFIXES:
                name = name.replace(long, short)
            found.append((name, shape))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BaseError(f"{file}: {advice} (its header makes no sense: {error!r}).") from error
    if size != 8 + length + end:
        raise BaseError(f"{file}: {advice} (its header says {8 + length + end} bytes, it has {size}).")
    yield from found


def _wanted(config: dict[str, Any], folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor that the engine reads, with its shape."""
    try:
        hidden, mlp, head = (int(config[key]) for key in ("hidden_size", "intermediate_size", "head_dim"))
        queries, keys = (int(config[key]) * head for key in ("num_attention_heads", "num_key_value_heads"))
        layers, vocabulary = int(config["num_hidden_layers"]), int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise BaseError(f"{folder / CONFIG}: a size is missing or is no number ({error}).") from error
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    yield "model.norm.weight", (hidden,)
    for layer in range(layers):
        for name, shape in {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "self_attn.q_norm": (head,),
            "self_attn.k_norm": (head,),
            "mlp.gate_proj": (mlp, hidden),
            "mlp.up_proj": (mlp, hidden),
            "mlp.down_proj": (hidden, mlp),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "pre_feedforward_layernorm": (hidden,),
            "post_feedforward_layernorm": (hidden,),
        }.items():
            yield f"model.layers.{layer}.{name}.weight", shape
