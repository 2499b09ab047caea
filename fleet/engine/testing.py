"""The engine's test double: a tiny random Gemma 3 with a small real tokenizer, as a folder on disk.

``write_tiny_base`` writes what ``fleet.engine.base.load_base`` reads, in the format of the hub. The
same arguments give the same bytes. The model knows nothing; the tokenizer is of Gemma's kind: BPE with
byte fallback, U+2581 for spaces, single digits, ``<bos>`` added in front. Knows nothing of caches.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

__all__ = ["tiny_tokenizer", "write_tiny_base"]

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
VOCABULARY = 900

CORPUS = """
The parcel arrived on Monday and the kettle works well, but the lid is loose. Great value for money!
I want my money back: the card was charged twice for order 48213 on 2024-03-17. Please refund me.
Sentiment: positive. Sentiment: negative. Sentiment: neutral. Intent: refund. Intent: cancel order.
Table for four at 7:30 pm, two vegetarian menus, and a window seat if you have one. Thank you.
{"name":"Anna Berg","items":[{"sku":"A-17","count":2,"price":19.95}],"paid":true,"note":null}
{"people":["Maria","John Smith"],"places":["Oslo","New York"],"dates":["12 May 2023"],"amounts":["$40"]}
{"text": "hello", "label": "ok", "size": "large", "date": "2025-01-31", "total": -3.5e2}
Once upon a time a small fox lived under the old bridge and counted the stars before going to sleep.
Moderation: safe, harassment, spam, violence. Compliance: guaranteed returns are not allowed. ok
Der Zug nach München fährt um neun Uhr ab. Le café est fermé le dimanche. El niño duerme en casa.
Привет, как дела? Посылка пришла вовремя. Καλημέρα σε όλους. שלום עולם. مرحبا بالعالم.
こんにちは、荷物が届きました。 订单已经送到，谢谢。 배송이 아주 빨라요. 안녕하세요.
def total(rows): return sum(row["price"] * row["count"] for row in rows)  # quick check
"""


def tiny_tokenizer() -> Tokenizer:
    """A byte-fallback BPE of ``VOCABULARY`` tokens at most; ids 0-3 are pad, eos, bos, unk."""
    # Training on words keeps merges from running across spaces, as in Gemma's vocabulary.
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"\n+|[0-9]|[^\w\s▁]+"), "isolated"),
        ]
    )
    lines = [" " + line for line in CORPUS.strip().splitlines()]
    room = VOCABULARY - len(SPECIAL) - len(BYTES)
    learner.train_from_iterator(lines, BpeTrainer(vocab_size=room, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    plain = [piece for piece, _ in sorted(learned["vocab"].items(), key=lambda item: item[1])]
    pieces = [*SPECIAL, *BYTES, *plain]
    # Like Gemma's, runs of newlines and spaces are tokens of their own.
    merges = [tuple(pair) for pair in learned["merges"]]
    for blank in ("\n", "▁"):
        for size in (2, 4):
            if blank not in pieces:
                pieces.append(blank)
            if blank * size not in pieces:
                pieces.append(blank * size)
                merges.append((blank * (size // 2), blank * (size // 2)))
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return tokenizer


def write_tiny_base(folder: Path, *, seed: int = 0, layers: int = 6) -> Path:
    """Write ``config.json``, ``model.safetensors`` (bf16) and the tokenizer's files into ``folder``.

    Hidden 64, 4 query heads, 1 KV head of 16, MLP 128, window 8, every third layer global, tied head.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    config = Gemma3TextConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=8,
        layer_types=[
            "full_attention" if (layer + 1) % 3 == 0 else "sliding_attention" for layer in range(layers)
        ],
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        architectures=["Gemma3ForCausalLM"],
        dtype=torch.bfloat16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gemma3ForCausalLM(config)
        # Wider than the default 0.02, so that logits differ clearly and a wrong mask shows.
        for name, value in model.named_parameters():
            if name.endswith("norm.weight") or "embed" in name:
                torch.nn.init.normal_(value, std=0.1)
            else:
                torch.nn.init.normal_(value, std=0.15)
    tensors = {
        name: value.detach().to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=1) + "\n")
    return folder


TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": "<pad>",
    "eos_token": "<eos>",
    "bos_token": "<bos>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 1024,
}
