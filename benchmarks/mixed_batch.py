"""One batch of jobs for many experts: ours against PEFT's ``adapter_names``, same adapters, same prompts.

32 jobs of 48 tokens over 16 LoRA experts (rank 16, layers 6-17), one label decision each. Medians over
interleaved repetitions on the real base in bf16; both must prefer the same label. PEFT gets a head that
does not fall into the slow frozen 3-D path, and computes the last position's logits only.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from fleet.engine.adapters import Adapter, AdapterBank, save_adapter
from fleet.engine.base import load_base, resolve_base
from fleet.engine.gemma import Batch
from fleet.engine.specs import LoraSpec

JOBS, TOKENS, EXPERTS, REPETITIONS = 32, 48, 16, 5
LORA = LoraSpec()


def adapters(config_bank: AdapterBank) -> list[Adapter]:
    made = []
    for seed in range(EXPERTS):
        config_bank.initialise(0, LORA, seed)
        generator = torch.Generator().manual_seed(seed)
        tensors = config_bank.adapter(0).tensors
        made.append(
            Adapter(
                LORA, {n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}
            )
        )
    return made


def seconds(call: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


@torch.inference_mode()
def main() -> None:
    cache = Path(os.environ.get("FLEET_CACHE") or "~/.cache/taskfleet").expanduser()
    folder = resolve_base("gemma-3-270m", cache)
    model = load_base(folder).model
    scratch = AdapterBank(model.config, 1, LORA.rank, LORA.layers, dtype=torch.float32)
    made = adapters(scratch)
    bank = AdapterBank(model.config, EXPERTS, LORA.rank, LORA.layers, dtype=torch.bfloat16)
    for slot, adapter in enumerate(made):
        bank.load(slot, adapter)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 200_000, (JOBS, TOKENS), generator=generator)
    ids[:, 0] = 2
    slots = [i * EXPERTS // JOBS for i in range(JOBS)]
    labels = torch.tensor([4785, 8322, 13492, 21417])
    batch = Batch.of([TOKENS] * JOBS)

    def ours() -> torch.Tensor:
        chosen = bank.select(slots, batch, dtype=model.dtype)
        h = model.run(model.embed(ids.reshape(-1)), batch, (0, model.config.layers), adapters=chosen)
        return model.logits(model.norm(h[batch.last]), labels)

    with tempfile.TemporaryDirectory() as place:
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        theirs.lm_head.weight.requires_grad_(True)
        for slot, adapter in enumerate(made):
            (Path(place) / str(slot)).mkdir()
            save_adapter(Path(place) / str(slot), adapter, "base")
        peft = PeftModel.from_pretrained(theirs, Path(place) / "0", adapter_name="0")
        for slot in range(1, EXPERTS):
            peft.load_adapter(Path(place) / str(slot), adapter_name=str(slot))
    peft.eval()

    def mixed() -> torch.Tensor:
        names = [str(slot) for slot in slots]
        return peft(input_ids=ids, adapter_names=names, logits_to_keep=1).logits[:, -1, labels].float()

    times: dict[str, list[float]] = {"ours": [], "PEFT adapter_names": []}
    agree = 0.0
    for repetition in range(REPETITIONS + 1):
        mine, a = seconds(ours)
        peer, b = seconds(mixed)
        agree = float((a.argmax(-1) == b.argmax(-1)).float().mean())
        if repetition:  # the first one warms up
            times["ours"].append(mine)
            times["PEFT adapter_names"].append(peer)
    median = {name: statistics.median(values) for name, values in times.items()}
    ratio = median["PEFT adapter_names"] / median["ours"]
    table = Table(
        "engine", "jobs/s", "ms per batch", title=f"{JOBS} jobs x {TOKENS} tokens, {EXPERTS} experts"
    )
    for name, value in median.items():
        table.add_row(name, f"{JOBS / value:.1f}", f"{value * 1000:.0f}")
    Console().print(table, f"ratio {ratio:.2f}, same label {agree:.0%}, torch {torch.__version__}")
    result = {"jobs_per_second": {n: JOBS / v for n, v in median.items()}, "ratio": ratio, "agreement": agree}
    place_out = Path("benchmarks/results")
    place_out.mkdir(exist_ok=True)
    (place_out / "mixed_batch.json").write_text(json.dumps(result, indent=2) + "\n")
    if agree < 0.9:
        raise SystemExit(f"the engines disagree on {1 - agree:.0%} of the labels, at most 10 % is rounding")
