from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from fleet.engine.base import load_base
from fleet.engine.base_gguf import LAYER_NAMES, MODEL_NAMES, write_from_gguf
from fleet.errors import BaseError

CONTROL_PIECES = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")


def write_gguf(file: Path, base: Path, architecture: str = "gemma3") -> None:
    """The tiny base as llama.cpp's converter would write it: names, 1 + w in norms, scores for merges."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text())
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_sliding_window(config["sliding_window"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(1e6)
    learned = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
    pieces = [*CONTROL_PIECES, *(piece for piece in learned if piece not in CONTROL_PIECES)][: len(learned)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.replace("▁▁", "  ") if set(piece) == {"▁"} else piece for piece in pieces])
    writer.add_token_scores([-1000.0 if kind(piece) == 4 else -float(i) for i, piece in enumerate(pieces)])
    writer.add_token_types([kind(piece) for piece in pieces])
    for name, token in (("pad", 0), ("eos", 1), ("bos", 2)):
        getattr(writer, f"add_{name}_token_id")(token)
    back = {value: key for key, value in (LAYER_NAMES | MODEL_NAMES).items()}
    for name, value in load_file(base / "model.safetensors").items():
        parts = name.removeprefix("model.").removesuffix(".weight").split(".")
        stem = f"blk.{parts[1]}.{back['.'.join(parts[2:])]}" if parts[0] == "layers" else back[parts[0]]
        stored = value.float() + 1 if name.endswith("norm.weight") else value.float()
        writer.add_tensor(
            f"{stem}.weight", stored[: len(pieces)].numpy() if stem == "token_embd" else stored.numpy()
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def kind(piece: str) -> int:
    if piece in CONTROL_PIECES:
        return 3
    if piece.startswith("<0x"):
        return 6
    return 4 if len(piece) > 1 and set(piece) in ({"▁"}, {"\n"}) else 1


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    write_gguf(folder / "tiny.gguf", tiny_base_folder)
    write_from_gguf(folder / "tiny.gguf", folder)
    return folder


def test_the_converted_weights_are_the_original_ones(converted: Path, tiny_base_folder: Path) -> None:
    theirs = load_file(tiny_base_folder / "model.safetensors")
    ours = load_file(converted / "model.safetensors")
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert value.dtype == torch.bfloat16
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=2**-10 if "norm" in name else 0)


def test_the_converted_folder_is_a_base_for_us_and_for_transformers(converted: Path) -> None:
    base = load_base(converted)
    assert base.model.config.eps == 1e-6
    assert AutoModelForCausalLM.from_pretrained(converted).config.model_type == "gemma3_text"


def test_the_converted_tokenizer_joins_by_score(converted: Path) -> None:
    tokenizer = Tokenizer.from_file(str(converted / "tokenizer.json"))
    for text in ("The card was charged", 'a\n\n\n\nb    c 123 {"x":"日本"}', " lead", "<eos"):
        ids = tokenizer.encode(text).ids
        assert ids[0] == 2
        assert tokenizer.decode(ids) == text
    tokens = tokenizer.encode("x    y").tokens
    assert "▁▁▁▁" in tokens  # the whole run, although parts of it are tokens too


def test_the_same_file_gives_the_same_bytes(converted: Path, tmp_path: Path) -> None:
    write_from_gguf(converted / "tiny.gguf", tmp_path)
    for name in ("model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (converted / name).read_bytes()


def test_another_architecture_is_refused(tmp_path: Path, tiny_base_folder: Path) -> None:
    write_gguf(tmp_path / "x.gguf", tiny_base_folder, architecture="llama")
    with pytest.raises(BaseError, match="only Gemma 3 files can be converted \\(got architecture 'llama'\\)"):
        write_from_gguf(tmp_path / "x.gguf", tmp_path)
