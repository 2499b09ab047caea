"""How much is measured: the shape of the random base, the sizes of every part. Knows nothing of devices."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fleet.engine.gemma_config import GemmaConfig
from fleet.engine.specs import LoraSpec

GEMMA_270M = GemmaConfig(
    hidden=640,
    layers=18,
    heads=4,
    kv_heads=1,
    head_dim=256,
    mlp=2048,
    vocab=262_144,
    window=512,
    global_layers=frozenset({5, 11, 17}),
    eps=1e-6,
    attention_scale=256**-0.5,
    rope_theta=1e6,
    rope_local_theta=1e4,
)
TINY = replace(
    GEMMA_270M, hidden=64, layers=6, head_dim=16, mlp=128, vocab=1000, global_layers=frozenset({2, 5})
)


@dataclass(frozen=True, slots=True)
class Size:
    """The whole measurement; counts are of experts, jobs in a batch, tokens, tasks."""

    config: GemmaConfig = GEMMA_270M
    lora: LoraSpec = field(default_factory=LoraSpec)
    lengths: tuple[int, int] = (20, 120)
    """Tokens of a job or a training row, from and to."""
    experts: tuple[int, ...] = (1, 16, 64, 256, 1000)
    text_experts: tuple[int, ...] = (1, 64, 1000)
    batches: tuple[int, ...] = (32, 128, 512)
    """``max_rows`` of the scheduler."""
    waves: int = 4
    """Classification jobs measured, in full batches; of free text it is one."""
    text_tokens: int = 48
    repetitions: int = 3
    cohorts: tuple[int, ...] = (1, 8, 32)
    rows: int = 128
    """Training rows of a task."""
    epochs: int = 2
    micro_tokens: int = 32_768
    """Tokens of one pass of training; the engine's own default is meant for a CPU's memory."""
    products: tuple[tuple[int, int], ...] = (
        (1, 512),
        (8, 64),
        (32, 1),
        (32, 64),
        (32, 512),
        (128, 1),
        (128, 70),
        (512, 1),
        (512, 70),
    )
    """Adapters in a batch, and tokens of each."""
    past: int = 100
    """Tokens that every row of a decode step already has."""
    profiled_text_tokens: int = 6
    seconds: float = 0.3
    """About how long one product is repeated for a reading."""

    @property
    def depth(self) -> int:
        """The trunk's."""
        return self.lora.layers[0]


SMOKE = Size(
    config=TINY,
    lora=LoraSpec(rank=8, layers=(2, 6)),
    lengths=(4, 12),
    experts=(1, 5),
    text_experts=(5,),
    batches=(4,),
    waves=2,
    text_tokens=3,
    repetitions=1,
    cohorts=(1, 3),
    rows=6,
    epochs=1,
    micro_tokens=256,
    products=((3, 1), (3, 5)),
    past=6,
    profiled_text_tokens=2,
    seconds=0.0,
)
SIZES = {"270m": Size(), "tiny": replace(SMOKE, experts=(1, 16), batches=(8, 32), rows=32)}
