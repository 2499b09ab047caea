"""What one would write oneself: Ray Serve, ``@serve.multiplexed``, PEFT; the same experts, the same files.

Kindnesses without which the comparison is a lie: every adapter may stay loaded; requests go from the proxy
straight to a replica, without a hop between; Serve's batching puts a replica's requests of one model together
(``WAIT``, ``BATCH``); a label takes one forward pass in which the labels' first tokens are compared, and no
more of the vocabulary's logits than the last position's; weights say that they want a gradient (frozen bf16
ones take a slow path for 3-D inputs); adapters stay bf16, or all is fp32 on a processor without bf16
products; forward passes run beside the event loop.
``generate`` instead does what most would write: as many tokens as the longest label has. Knows nothing of
our engine.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from peft import PeftModel
from ray import serve
from starlette.requests import Request
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from fleet.engine.precision import has_bf16_products, native_dtype

MOST_MODELS = 1000
BATCH = 32
"""Requests at most that are looked through for those of one model."""
WAIT = 0.1
"""Seconds that a request waits for company: Serve begins a batch when they are over, even while another one
is computed, so that without them every request is a batch of its own."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    base: str
    adapters: Mapping[str, str]
    """Folder in PEFT's format, by model id."""
    labels: tuple[str, ...]
    suffix: str
    threads: int


@dataclass(frozen=True, slots=True)
class _Asked:
    model: str
    texts: Sequence[str]
    generate: bool


class PeftPeer:
    """One replica."""

    def __init__(self, settings: PeerSettings) -> None:
        torch.set_num_threads(settings.threads)
        self._adapters = settings.adapters
        tokenizer = PreTrainedTokenizerFast.from_pretrained(settings.base)
        model = AutoModelForCausalLM.from_pretrained(settings.base, dtype=native_dtype())
        self._tokenizer, self._bare = tokenizer, model
        self._model: PeftModel | None = None
        self._suffix = tokenizer(settings.suffix, add_special_tokens=False)["input_ids"]
        self._labels = settings.labels
        self._label_ids = [[*self._tokens(f" {label}"), tokenizer.eos_token_id] for label in settings.labels]
        # One at a time: the adapter that is set holds for the whole model.
        self._alone = ThreadPoolExecutor(1)

    @serve.multiplexed(max_num_models_per_replica=MOST_MODELS)
    async def expert(self, model: str) -> str:
        await asyncio.get_running_loop().run_in_executor(self._alone, self._load, model)
        return model

    async def __call__(self, request: Request) -> dict[str, list[str]]:
        asked = await request.json()
        model = await self.expert(serve.get_multiplexed_model_id())
        wanted = _Asked(model, asked["texts"], bool(asked.get("generate")))
        return {"labels": await self.answer(wanted)}

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT)
    async def answer(self, batch: list[_Asked]) -> list[list[str]]:
        """Requests of one model: Serve has seen to that."""
        return await asyncio.get_running_loop().run_in_executor(self._alone, self._answer, batch)

    @torch.no_grad()
    def _answer(self, batch: Sequence[_Asked]) -> list[list[str]]:
        assert self._model is not None
        self._model.set_adapter(batch[0].model)
        groups = defaultdict(list)
        for place, asked in enumerate(batch):
            groups[asked.generate] += [(place, text) for text in asked.texts]
        answers: list[list[str]] = [[] for _ in batch]
        for generate, group in groups.items():
            said = (self._generate if generate else self._choose)([self._prompt(text) for _, text in group])
            for (place, _), label in zip(group, said, strict=True):
                answers[place].append(label)
        return answers

    def _choose(self, prompts: list[list[int]]) -> list[str]:
        """The likeliest label, token by token as far as labels begin alike."""
        chosen: list[list[int]] = [[] for _ in prompts]
        open_rows = list(range(len(prompts)))
        while open_rows:
            ids, mask = self._padded([prompts[row] + chosen[row] for row in open_rows])
            # Without positions the padding in front would count.
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            out = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1)
            for row, logits in zip(open_rows, out.logits[:, -1].float(), strict=True):
                step = len(chosen[row])
                going = sorted({label[step] for label in self._label_ids if label[:step] == chosen[row]})
                chosen[row].append(going[int(logits[going].argmax())])
            open_rows = [row for row in open_rows if len(self._alike(chosen[row])) > 1]
        return [self._alike(begun)[0] for begun in chosen]

    def _alike(self, begun: list[int]) -> list[str]:
        pairs = zip(self._labels, self._label_ids, strict=True)
        return [label for label, ids in pairs if ids[: len(begun)] == begun]

    def _generate(self, prompts: list[list[int]]) -> list[str]:
        ids, mask = self._padded(prompts)
        out = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(map(len, self._label_ids)) - 1,
            do_sample=False,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return [text.strip() for text in self._tokenizer.batch_decode(out[:, ids.shape[1] :])]

    def _load(self, model: str) -> None:
        options = {"autocast_adapter_dtype": not has_bf16_products(), "low_cpu_mem_usage": True}
        if self._model is None:
            self._model = PeftModel.from_pretrained(
                self._bare, self._adapters[model], adapter_name=model, **options
            )
        else:
            self._model.load_adapter(self._adapters[model], adapter_name=model, **options)
        self._model.eval()
        for parameter in self._model.parameters():
            parameter.requires_grad_(True)

    def _prompt(self, text: str) -> list[int]:
        return [self._tokenizer.bos_token_id, *self._tokens(text), *self._suffix]

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask ``[B, N]``, padded in front."""
        width, padding = max(map(len, prompts)), self._tokenizer.pad_token_id
        ids = torch.tensor([[padding] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return ids, mask


def peer_application(settings: PeerSettings, replicas: int) -> serve.Application:
    return (
        serve.deployment(PeftPeer)
        .options(
            name="peer",
            num_replicas=replicas,
            max_ongoing_requests=256,
            ray_actor_options={"num_cpus": settings.threads},
        )
        .bind(settings)
    )
