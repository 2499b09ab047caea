"""Our forward against transformers' on the real base, below and above the sliding window of 512.

Tolerances: in fp32 every logit of the last 32 positions within 2e-3; in bf16, where both round their
own way, a mean difference of at most 0.12 and the same likeliest token wherever it leads by 1 or more.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from fleet.engine.base import load_base
from fleet.engine.batch import Batch
from fleet.engine.prompt import Renderer

TEXT = (
    "The harbour master counted the boats again. Nine had gone out before dawn, and eight lanterns "
    "were coming home; the ninth, he was told, had stopped at the island for a wedding. 안녕하세요, 再见! "
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("tokens", [48, 600], ids=["short", "beyond-the-window"])
def test_logits_equal_transformers(real_base_folder: Path, dtype: torch.dtype, tokens: int) -> None:
    base = load_base(real_base_folder, dtype=dtype)
    ids = Renderer(base.tokenizer).job_ids(TEXT * 12)[:tokens]
    theirs = AutoModelForCausalLM.from_pretrained(real_base_folder, dtype=dtype).eval()
    with torch.inference_mode():
        wanted = theirs(torch.tensor([ids]), logits_to_keep=32).logits[0].float()
        h = base.model.run(
            base.model.embed(torch.tensor(ids)), Batch.of([len(ids)]), (0, base.model.config.layers)
        )
        got = base.model.logits(base.model.norm(h[-32:]))
    assert tokens < base.model.config.window or len(ids) > base.model.config.window
    if dtype == torch.float32:
        torch.testing.assert_close(got, wanted, atol=2e-3, rtol=0)
        return
    assert float((got - wanted).abs().mean()) < 0.12
    best = wanted.topk(2, dim=-1).values
    clear = best[:, 0] - best[:, 1] >= 1
    assert bool(clear.any())
    assert torch.equal(got.argmax(-1)[clear], wanted.argmax(-1)[clear])
