"""A Gemma 3 GGUF file to a folder in the hub's format: bf16 weights, tokenizer, configuration.

The same file gives the same bytes, whatever versions of transformers and tokenizers are installed, so
every machine that converts gets the same fingerprint. Knows nothing of caches, locks or packages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from fleet.errors import BaseError

__all__ = ["tokenizer_json", "write_from_gguf"]

# Token types of GGUF's vocabulary.
CONTROL, USER_DEFINED, BYTE = 3, 4, 6

# Marked as special in Google's tokenizer.json; GGUF calls thousands of others control tokens too.
SPECIAL = frozenset(
    [
        *("<pad>", "<eos>", "<bos>", "<unk>"),
        *("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"),
    ]
)

LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MODEL_NAMES = {"token_embd": "embed_tokens", "output_norm": "norm"}


def write_from_gguf(file: Path, folder: Path) -> None:
    """Write ``model.safetensors``, ``config.json`` and the tokenizer's files of ``file`` into ``folder``.

    Raises ``BaseError`` if the file is no Gemma 3 or the ``gguf`` package is missing.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise BaseError("Reading GGUF needs one more package: pip install 'taskfleet[gemma]'.") from error
    reader = GGUFReader(file)
    known = {name: field.contents() for name, field in reader.fields.items()}
    if known.get("general.architecture") != "gemma3" or known.get("tokenizer.ggml.model") != "llama":
        raise BaseError(
            f"{file.name}: only Gemma 3 files can be converted "
            f"(got architecture {known.get('general.architecture')!r})."
        )
    tokens = known["tokenizer.ggml.tokens"]
    tokenizer = tokenizer_json(tokens, known["tokenizer.ggml.scores"], known["tokenizer.ggml.token_type"])
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    _write_json(folder / "config.json", _config(known, len(tokens)), indent=2)
    weights = folder / "model.safetensors"
    save_file(dict(map(_tensor, reader.tensors)), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors writes it for its owner alone; the cache may be shared


def _write_json(path: Path, value: Any, indent: int | None = None) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


def _tensor(packed: Any) -> tuple[str, Tensor]:
    """One tensor under its name in transformers, dequantised in fp32 and rounded once, to bf16."""
    from gguf.quants import dequantize

    name = _name(packed.name)
    value = torch.from_numpy(dequantize(packed.data, packed.tensor_type).astype(np.float32))
    if name.endswith("norm.weight"):
        value = value - 1.0  # GGUF stores 1 + w of Gemma's norms
    return name, value.to(torch.bfloat16).contiguous()


def _name(gguf_name: str) -> str:
    stem = gguf_name.removesuffix(".weight")
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    try:
        inner = f"layers.{layer[1]}.{LAYER_NAMES[layer[2]]}" if layer else MODEL_NAMES[stem]
    except KeyError as error:
        raise BaseError(f"The GGUF file holds a tensor that Gemma 3 has not: {gguf_name}.") from error
    return f"model.{inner}.weight"


def _config(known: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """``config.json`` as transformers 5 writes it, from GGUF's keys and what all Gemma 3 share."""

    def value(key: str) -> Any:
        return known[f"gemma3.{key}"]

    layers = value("block_count")
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": known["tokenizer.ggml.bos_token_id"],
        "dtype": "bfloat16",
        "eos_token_id": known["tokenizer.ggml.eos_token_id"],
        "head_dim": value("attention.key_length"),
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": value("embedding_length"),
        "initializer_range": 0.02,
        "intermediate_size": value("feed_forward_length"),
        "layer_types": [
            "full_attention" if (layer + 1) % 6 == 0 else "sliding_attention" for layer in range(layers)
        ],
        "max_position_embeddings": value("context_length"),
        "num_attention_heads": value("attention.head_count"),
        "num_hidden_layers": layers,
        "num_key_value_heads": value("attention.head_count_kv"),
        "pad_token_id": known["tokenizer.ggml.padding_token_id"],
        # True of 270M to 12B; 27B divides by hidden / heads instead.
        "query_pre_attn_scalar": value("attention.key_length"),
        # GGUF keeps it in fp32: 9.99999997e-07 stands for 1e-06.
        "rms_norm_eps": float(f"{value('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_parameters": {
            "full_attention": {"rope_theta": value("rope.freq_base"), "rope_type": "default"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "sliding_window": value("attention.sliding_window"),
        "tie_word_embeddings": True,
        "use_bidirectional_attention": False,
        "vocab_size": vocabulary,
    }


def tokenizer_json(tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]) -> dict[str, Any]:
    """Google's ``tokenizer.json`` from the SentencePiece vocabulary that GGUF carries.

    SentencePiece has no merge list: it joins the neighbours whose union has the highest score. The
    list is rebuilt by cutting every piece in two known ones, best score first and among equals the
    longest left part first, which is the order of the official file. GGUF gives user-defined pieces
    (runs of blanks) the score -1000 where the original has 0, and writes their blanks as spaces.
    """
    pieces = [
        token.replace(" ", "▁") if kind == USER_DEFINED else token
        for token, kind in zip(tokens, types, strict=True)
    ]
    ids = {piece: index for index, piece in enumerate(pieces)}
    if len(ids) != len(pieces):
        raise BaseError("The GGUF file's vocabulary names a token twice.")
    ranked: list[tuple[float, int, int, int, str, str]] = []
    for index, (piece, score, kind) in enumerate(zip(pieces, scores, types, strict=True)):
        if kind in (CONTROL, BYTE):
            continue
        rank = 0.0 if kind == USER_DEFINED else -score
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                ranked.append((rank, -cut, cut - len(piece), index, left, right))
    ranked.sort(key=lambda merge: merge[:4])
    added = [
        {
            "id": index,
            "content": piece,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": piece in SPECIAL,
        }
        for index, (piece, kind) in enumerate(zip(pieces, types, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": _bos_in_front(ids["<bos>"]),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [[left, right] for *_, left, right in ranked],
        },
    }


def _bos_in_front(bos: int) -> dict[str, Any]:
    def special(kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": "<bos>", "type_id": kind}}

    def sequence(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    return {
        "type": "TemplateProcessing",
        "single": [special(0), sequence("A", 0)],
        "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [bos], "tokens": ["<bos>"]}},
    }


TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
}
