"""llama.cpp through its C interface: one expert's jobs at a time, as parallel sequences of one context.

An adapter holds for a whole context, so jobs of several experts cannot share a batch. Greedy, with the
rows of logits read where llama.cpp left them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from benchmarks.serving.clients import Answered
from benchmarks.serving.workload import Job

SEQUENCES = 32
CONTEXT = 256
"""Tokens of one sequence."""
BATCH = 2048
"""Tokens of one pass."""


class Llama:
    """One base file with an adapter for each expert's number."""

    def __init__(
        self, base: Path, adapters: Sequence[Path], tokenizer: PreTrainedTokenizerFast, *, threads: int
    ) -> None:
        import llama_cpp

        self._api: Any = llama_cpp
        self._tokenizer = tokenizer
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(bytes(base), options)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot read {base.name}")
        self._adapters = [llama_cpp.llama_adapter_lora_init(self._model, bytes(file)) for file in adapters]
        if not all(self._adapters):
            raise RuntimeError("llama.cpp cannot read the adapters")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = SEQUENCES * CONTEXT
        options.n_seq_max = SEQUENCES
        options.n_batch = options.n_ubatch = BATCH
        options.n_outputs_max = SEQUENCES  # else there is room for the logits of a whole batch: 2 GiB
        options.kv_unified = True  # else sequences of different lengths are fed one after the other
        options.n_threads = options.n_threads_batch = threads
        options.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self._expert: int | None = None

    def generate(self, jobs: Sequence[Job], limits: Mapping[str, int]) -> list[Answered]:
        """Greedy answers of jobs of one expert."""
        limit, end = limits[jobs[0].kind], self._tokenizer.eos_token_id
        self._use(jobs[0].expert)
        outputs: list[list[int]] = [[] for _ in jobs]
        coming = {place: list(job.prompt) for place, job in enumerate(jobs)}
        lengths = [0] * len(jobs)
        while coming:
            for place, row in self._decode(coming, lengths):
                outputs[place].append(int(row.argmax()))
            coming = {
                place: outputs[place][-1:]
                for place in coming
                if outputs[place][-1] != end and len(outputs[place]) < limit
            }
        return [Answered(job, len(tokens), tuple(tokens)) for job, tokens in zip(jobs, outputs, strict=True)]

    def prefer(
        self, experts: Sequence[int], prompts: Sequence[Sequence[int]], allowed: Sequence[Tensor]
    ) -> list[int]:
        """Which of its allowed ids each prompt's expert likes best next, as an index into them."""
        liked = [0] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda place: experts[place])
        for expert, group in groupby(order, key=lambda place: experts[place]):
            self._use(expert)
            places = list(group)
            coming = {sequence: list(prompts[place]) for sequence, place in enumerate(places)}
            for sequence, row in self._decode(coming, [0] * len(coming)):
                place = places[sequence]
                liked[place] = int(row[allowed[place].numpy()].argmax())
        return liked

    def _use(self, expert: int) -> None:
        """Take up an expert's adapter, and forget all sequences."""
        api = self._api
        api.llama_memory_clear(api.llama_get_memory(self._context), True)
        if expert != self._expert:
            self._expert = expert
            adapters = (api.llama_adapter_lora_p_ctypes * 1)(self._adapters[expert])
            scales = (ctypes.c_float * 1)(1.0)
            if api.llama_set_adapters_lora(self._context, adapters, 1, scales):
                raise RuntimeError(f"llama.cpp does not take the adapter of expert {expert}")

    def _decode(
        self, coming: Mapping[int, Sequence[int]], lengths: list[int]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Feed each sequence its new tokens, whole sequences to a pass; the logits behind each one's last."""
        chunk: list[int] = []
        for sequence in coming:
            if sum(len(coming[other]) for other in (*chunk, sequence)) > BATCH:
                yield from self._pass({other: coming[other] for other in chunk}, lengths)
                chunk = []
            chunk.append(sequence)
        yield from self._pass({other: coming[other] for other in chunk}, lengths)

    def _pass(
        self, coming: Mapping[int, Sequence[int]], lengths: list[int]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        batch, place, ends = self._batch, 0, {}
        for sequence, tokens in coming.items():
            for token in tokens:
                batch.token[place] = token
                batch.pos[place] = lengths[sequence]
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = sequence
                batch.logits[place] = 0
                lengths[sequence] += 1
                place += 1
            batch.logits[place - 1] = 1
            ends[sequence] = place - 1
        batch.n_tokens = place
        if status := self._api.llama_decode(self._context, batch):
            raise RuntimeError(f"llama.cpp failed to decode: {status}")
        for sequence, end in ends.items():
            row = self._api.llama_get_logits_ith(self._context, end)
            yield sequence, np.ctypeslib.as_array(row, shape=(self._vocabulary,))
