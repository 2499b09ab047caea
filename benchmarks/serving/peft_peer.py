"""PEFT over transformers' ``generate``: the same adapters from the same files, with PEFT's best setting.

Kindnesses without which the comparison is a lie: frozen bf16 weights take a slow path for 3-D inputs on
the CPU, so all weights say that they want a gradient (none is computed); adapters are not widened to
fp32, as PEFT does unless told, where the model is bf16; only the last position's logits are computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks.serving.clients import Answered
from benchmarks.serving.workload import Job


class Peft:
    """One model with an adapter named after each expert's number."""

    def __init__(
        self, base: Path, adapters: Sequence[Path], tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype
    ) -> None:
        self._tokenizer = tokenizer
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        options = {"autocast_adapter_dtype": dtype == torch.float32, "low_cpu_mem_usage": True}
        self._model = PeftModel.from_pretrained(model, adapters[0], adapter_name="0", **options)
        for number, folder in enumerate(adapters[1:], start=1):
            self._model.load_adapter(folder, adapter_name=str(number), **options)
        self._model.eval()
        for parameter in self._model.parameters():
            parameter.requires_grad_(True)

    @torch.no_grad()
    def generate(self, jobs: Sequence[Job], limits: Mapping[str, int]) -> list[Answered]:
        """Greedy answers of jobs of one kind for any experts, in one batch."""
        return self._generate(jobs, limits[jobs[0].kind], adapter_names=[str(job.expert) for job in jobs])

    @torch.no_grad()
    def generate_alone(self, jobs: Sequence[Job], limits: Mapping[str, int]) -> list[Answered]:
        """Greedy answers of jobs of one expert."""
        self._model.set_adapter(str(jobs[0].expert))
        return self._generate(jobs, limits[jobs[0].kind])

    def _generate(self, jobs: Sequence[Job], limit: int, **options: list[str]) -> list[Answered]:
        ids, mask = self._padded([job.prompt for job in jobs])
        end = self._tokenizer.eos_token_id
        out = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=self._tokenizer.pad_token_id,
            **options,
        )
        answers = []
        for job, row in zip(jobs, out[:, ids.shape[1] :].tolist(), strict=True):
            tokens = row[: row.index(end) + 1] if end in row else row
            answers.append(Answered(job, len(tokens), tuple(tokens)))
        return answers

    @torch.no_grad()
    def prefer(
        self, experts: Sequence[int], prompts: Sequence[Sequence[int]], allowed: Sequence[Tensor]
    ) -> list[int]:
        """Which of its allowed ids each prompt's expert likes best next, as an index into them."""
        ids, mask = self._padded(prompts)
        names = [str(expert) for expert in experts]
        # Without positions the padding in front would count.
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, adapter_names=names, logits_to_keep=1
        )
        rows = out.logits[:, -1].float()
        return [int(row[some].argmax()) for row, some in zip(rows, allowed, strict=True)]

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask ``[B, N]``, padded in front."""
        width = max(map(len, prompts))
        padding = self._tokenizer.pad_token_id
        ids = torch.tensor([[padding] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return ids, mask
