"""How near the engine comes to what this machine can do at all. There is no peer but the machine.

The limits are measured, not looked up: the matrix-product peak is the best of several shapes in bf16 and
in f32, by ``torch.mm`` and by ``F.linear``; the memory's speed is that of summing a tensor far larger than
the caches (bytes read) and of copying one (bytes read and written), with one thread and with all. They
take turns with the engine's own work, because both drift together:

- prefill: the bare base over rows of 64 tokens, up to each row's last hidden state, with its weights in the
  order in which they serve and, beside it, in the file's; operations are two per multiplied weight and
  token and attention's two products, as computed (every query against every key; the last layer has one
  query a row);
- training: ``train_cohort`` of one task without its trunk pass: adapted layers forward and the gradient
  of their inputs (twice), the adapter's own products and attention's (thrice);
- decode: one more token a row behind 64; bytes are those of the weights that a step must read once, in
  what the processor multiplies (bf16, else fp32) in both orders and in 4 bits, with a few rows of the head
  (a constrained answer) and with all of it (free text).

The head, norms, rotary embeddings and the optimiser count as time, not as operations.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.bench import Report, Run, bench_base, interleave
from fleet.engine.adapters import target_shape
from fleet.engine.base import Base, load_base
from fleet.engine.batch import Batch
from fleet.engine.cache import Cache
from fleet.engine.gemma import Gemma
from fleet.engine.gemma_config import GemmaConfig
from fleet.engine.int4 import BLOCK
from fleet.engine.precision import has_bf16_products
from fleet.engine.prompt import Renderer
from fleet.engine.specs import LORA_TARGETS, Example, LabelSpec, LoraSpec, PromptSpec, TaskSpec, TrainSpec
from fleet.engine.train import TrainTask, Validation, train_cohort

TARGET = 0.70
"""Share of the bf16 peak that a prefill of 32 rows should reach."""
SHAPES = ((1536, 640, 2048), (1536, 2048, 640), (2048, 640, 1024), (2048, 2048, 2048), (512, 640, 2048))
LABELS = ("positive", "neutral", "negative")
FILE_ORDER = "bf16 in the file's order"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done at a time."""

    shapes: tuple[tuple[int, int, int], ...] = SHAPES
    products: int = 8
    """Matrix products a reading, so that it lasts some tens of milliseconds."""
    stream: int = 2**30
    """Bytes of the tensor that is summed or copied."""
    batches: tuple[int, ...] = (1, 8, 32)
    tokens: int = 64
    steps: int = 4
    """Decode steps a reading."""
    rows: int = 32
    """Training rows."""
    weights: tuple[str, ...] = (FILE_ORDER, "bf16", "int4")
    """What decoding multiplies; the tiny base's vocabulary has no int4 kernel."""
    lora: LoraSpec = field(default_factory=LoraSpec)
    repetitions: int = 5


SMOKE = Size(
    ((64, 64, 128),), 2, 2**20, (1, 2), 8, 2, 4, (FILE_ORDER, "bf16"), LoraSpec(rank=4, layers=(2, 6)), 1
)


@dataclass(frozen=True, slots=True)
class Work:
    """Something timed, and what it takes: operations, or bytes that must cross the memory bus."""

    kind: str
    what: str
    call: Callable[[], float | None]
    """Its own time in seconds, or None: the whole call's."""
    operations: float = 0.0
    bytes: float = 0.0
    threads: int = 0
    """0 is all of them."""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.what}" + (f" ({self.threads} thread)" if self.threads else "")

    def run(self) -> float | None:
        every = torch.get_num_threads()
        torch.set_num_threads(self.threads or every)
        try:
            return self.call()
        finally:
            torch.set_num_threads(every)


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny base and tiny sizes: does it run?")
    smoke = parser.parse_args(argv).smoke
    size = SMOKE if smoke else Size()
    report = Report("limit", "Shares of the machine's own limits", smoke=smoke)
    with bench_base(smoke) as folder:
        base = load_base(folder)
        models = {weights: _model(base, weights) for weights in size.weights}
        works = [*products(size), *streams(size), *prefills(models, size), training(base, size)]
        works += decodes(models, size)
        fill(report, works, interleave({work.name: work.run for work in works}, size.repetitions))
    report.finish()


def fill(report: Report, works: Sequence[Work], runs: dict[str, list[Run[float | None]]]) -> None:
    """One row a work; the shares are of the best limit of the same kind with all threads."""
    seconds = {
        name: statistics.median(run.seconds if run.result is None else run.result for run in each)
        for name, each in runs.items()
    }
    every = [work for work in works if not work.threads]
    kind = "bf16" if has_bf16_products() else "f32"
    peak = max(w.operations / seconds[w.name] for w in every if w.kind == f"{kind} product")
    read = max(w.bytes / seconds[w.name] for w in every if w.kind == "sum")
    for work in works:
        rate, speed = work.operations / seconds[work.name], work.bytes / seconds[work.name]
        engine = work.kind in ("prefill", "training", "decode")
        share = None if not engine else speed / read if work.bytes else rate / peak
        report.rows.append(
            {
                "kind": work.kind,
                "what": work.what,
                "threads": work.threads or torch.get_num_threads(),
                "ms": seconds[work.name] * 1000,
                "GFLOP/s": rate / 1e9 if rate else None,
                "GB/s": speed / 1e9 if speed else None,
                "share of limit": share,
            }
        )
        if share is not None:
            report.ratios[f"{work.name}, share of {'memory' if work.bytes else f'{kind} peak'}"] = share
    report.notes.append(f"{kind} peak {peak / 1e9:.0f} GFLOP/s, memory read at {read / 1e9:.1f} GB/s")
    report.aim([name for name in report.ratios if name.startswith("prefill")][-1], at_least=TARGET)


def products(size: Size) -> list[Work]:
    """Matrix products ``[m, k] x [k, n]`` of shapes that the model has, and larger."""
    works = []
    for dtype, kind in ((torch.bfloat16, "bf16 product"), (torch.float32, "f32 product")):
        for m, k, n in size.shapes:
            x, plain, linear = (torch.randn(shape).to(dtype) for shape in ((m, k), (k, n), (n, k)))
            done = 2.0 * m * k * n * size.products
            for name, product, w in (("mm", torch.mm, plain), ("linear", F.linear, linear)):
                call = partial(_repeat, product, x, w, size.products)
                works.append(Work(kind, f"{name} {m}x{k}x{n}", call, done))
        works.append(replace(next(work for work in works if work.kind == kind), threads=1))
    return works


def _repeat(
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    w: torch.Tensor,
    times: int,
) -> None:
    for _ in range(times):
        product(x, w)


def streams(size: Size) -> list[Work]:
    source = torch.ones(size.stream // 4)
    target = torch.empty_like(source)

    def total() -> None:
        source.sum()

    def copy() -> None:
        target.copy_(source)

    label = f"{size.stream / 2**20:.0f} MiB f32"
    works = [Work("sum", label, total, bytes=size.stream), Work("copy", label, copy, bytes=2 * size.stream)]
    return [*works, *(replace(work, threads=1) for work in works)]


def prefills(models: Mapping[str, Gemma], size: Size) -> list[Work]:
    works = []
    for weights, rows in itertools.product((FILE_ORDER, "bf16"), size.batches):
        model, config = models[weights], models[weights].config
        ids = _ids(config, rows * size.tokens)
        batch = Batch.of([size.tokens] * rows)

        @torch.inference_mode()
        def call(model: Gemma = model, ids: torch.Tensor = ids, batch: Batch = batch) -> None:
            model.norm(model.run(model.embed(ids), batch, (0, model.config.layers), keep=batch.last))

        layers = [*[size.tokens] * (config.layers - 1), 1]
        done = sum(sum(_layer(config, rows, size.tokens, queries)) for queries in layers)
        works.append(Work("prefill", f"{weights}, {rows} x {size.tokens} tokens", call, done))
    return works


def _model(base: Base, weights: str) -> Gemma:
    if weights == "int4":
        return base.model.int4()
    return base.model.packed() if weights == "bf16" else base.model


def training(base: Base, size: Size) -> Work:
    """Steps of one task's cohort; rows of equal length, so that the operations can be counted."""
    config, lora = base.model.config, size.lora
    spec = TaskSpec(
        "limit",
        PromptSpec(suffix="\n\nSentiment:"),
        LabelSpec(LABELS),
        "accuracy",
        lora,
        TrainSpec(epochs=1, batch_tokens=512, patience=1),
    )
    examples = [Example({"text": _text(size.tokens, n)}, LABELS[n % 3]) for n in range(size.rows)]
    task = TrainTask(spec, examples, lambda bank, slot: Validation(0.0, 0.0))

    def call() -> float:
        (result,) = train_cohort(base, [task])
        if result.error:
            raise RuntimeError(result.error)
        return result.seconds

    done = 0.0
    for row in (Renderer.of(base.tokenizer).row(spec, example) for example in examples):
        tokens = len(row.ids)
        for queries in (*[tokens] * (lora.layers[1] - lora.layers[0] - 1), row.supervised):
            frozen, scores = _layer(config, 1, tokens, queries)
            own, _ = _layer(config, 1, tokens, queries, rank=lora.rank)
            done += 2 * frozen + 3 * (own + scores)
    layers = f"layers {lora.layers[0]}-{lora.layers[1] - 1}"
    return Work("training", f"{size.rows} rows, rank {lora.rank}, {layers}", call, done)


def decodes(models: Mapping[str, Gemma], size: Size) -> list[Work]:
    config = models["bf16"].config
    few = torch.arange(10, 10 + len(LABELS))
    body = config.layers * sum(math.prod(target_shape(config, target)) for target in LORA_TARGETS)
    works = []
    for weights, model in models.items():
        # Of a block of 4 bits also its scale and zero point.
        each = 0.5 + 4 / BLOCK if weights == "int4" else model.dtype.itemsize
        for rows in size.batches:
            cache = model.cache()
            cache.reserve(rows, size.tokens + 1)
            ids, batch = _ids(config, rows), Batch.of([1] * rows, [size.tokens] * rows)
            for head, label in ((few, "3 rows of the head"), (None, "the whole head")):
                call = partial(_decode, model, size.steps, ids, batch, cache, head)
                # A few rows of the head are always the file's bf16.
                read = body * each + config.hidden * (config.vocab * each if head is None else len(few) * 2)
                works.append(
                    Work("decode", f"{weights}, batch {rows}, {label}", call, bytes=read * size.steps)
                )
    return works


@torch.inference_mode()
def _decode(
    model: Gemma, steps: int, ids: torch.Tensor, batch: Batch, cache: Cache, head: torch.Tensor | None
) -> None:
    places = torch.arange(len(ids))
    for _ in range(steps):
        h = model.run(model.embed(ids), batch, (0, model.config.layers), cache=cache, cache_rows=places)
        model.logits(model.norm(h), head)


def _layer(
    config: GemmaConfig, rows: int, tokens: int, queries: int, rank: int | None = None
) -> tuple[float, float]:
    """Operations of one layer over ``rows`` of so many tokens, of which so many come out.

    Of its seven projections (of an adapter's products beside them, with ``rank``), and of attention's two.
    """
    projections = 0.0
    for target in LORA_TARGETS:
        out, into = target_shape(config, target)
        passing = tokens if target in ("self_attn.k_proj", "self_attn.v_proj") else queries
        projections += 2.0 * rows * passing * (out * into if rank is None else rank * (out + into))
    return projections, 4.0 * config.heads * config.head_dim * rows * queries * tokens


def _ids(config: GemmaConfig, count: int) -> torch.Tensor:
    return torch.randint(300, config.vocab, (count,), generator=torch.Generator().manual_seed(0))


def _text(tokens: int, seed: int) -> str:
    """About so many tokens, all of them one letter."""
    letters = torch.randint(97, 123, (tokens,), generator=torch.Generator().manual_seed(seed))
    return " ".join(map(chr, letters.tolist()))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
