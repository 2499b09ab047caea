"""TRL's ``SFTTrainer`` over a PEFT model as a contender, with what makes it fastest on a CPU.

Same base in bf16, same LoRA form and layers (fp32 matrices, as PEFT casts them), same ids and supervised
positions (a tokenised data set with ``completion_mask`` and ``completion_only_loss``), same steps, rows a
step, learning rate, warm-up, clipping, AdamW. Gradient checkpointing, logging, saving, reporting and
evaluation are off, the loader has no workers. Only ``trainer.train()``'s loop is timed.

The head: TRL 1.16 has one loss for this, ``nll``, computed in chunks with a fused head (``chunked_nll`` is
its old name; ``compute_loss_func`` and label smoothing cost a second forward pass). It multiplies 2-D
hidden states by slices of the weight, so the slow path of frozen 3-D heads does not arise, and the trick
against it would be a loss: with ``lm_head.weight.requires_grad_(True)`` it would compute the head's
gradient. On a GPU it scores supervised positions only; on a CPU every position. ``supervised_only``
switches its GPU choice on for the CPU: no setting that TRL offers, but the kindest reading of its loss.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import trl.trainer.utils
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.bench import forget_peak, peak_resident_mib
from benchmarks.training.course import Course, Trained, read_lesson, token_rows
from benchmarks.training.settings import Settings
from fleet.engine.adapters import Adapter, load_adapter
from fleet.engine.base import load_base
from fleet.engine.precision import has_bf16_products, native_dtype
from fleet.engine.prompt import TokenRow
from fleet.engine.specs import LORA_TARGETS, LoraSpec, TaskSpec


class _Clock(TrainerCallback):  # type: ignore[misc]
    """When the loop began, when its first epoch and when all of it ended."""

    began = first_epoch = ended = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.first_epoch = self.first_epoch or time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.perf_counter()


class TrlPeer:
    def __init__(self, folder: Path, lora: LoraSpec, settings: Settings) -> None:
        self._folder = folder
        self._lora = lora
        self._settings = settings
        self._tokenized = load_base(folder)
        self._model: Any = None
        if settings.supervised_only:
            # Its name in this module decides which positions are scored, and nothing else.
            trl.trainer.utils._use_triton = lambda device: True

    def train(self, course: Course) -> Trained:
        self._model = None  # one model at a time, as ours
        forget_peak()
        (name,) = course.tasks
        lesson = read_lesson(name, course.rows, course.epochs, self._lora)
        rows = token_rows(self._tokenized, lesson)
        with tempfile.TemporaryDirectory(prefix="bench-trl-") as scratch:
            trainer = self._trainer(lesson.spec, rows, course, scratch)
            clock = _Clock()
            trainer.add_callback(clock)
            trainer.train()
        self._model = trainer.model
        whole, part = divmod(course.steps, -(-len(rows) // course.batch_rows))
        tokens = sum(len(row.ids) for row in rows) / len(rows)
        done = whole * len(rows) + part * course.batch_rows
        return Trained(
            seconds=clock.ended - clock.began,
            first_epoch=clock.first_epoch - clock.began,
            steps=trainer.state.global_step,
            examples=done,
            tokens=round(done * tokens),
            peak_mib=peak_resident_mib(),
        )

    def adapter(self) -> Adapter:
        with tempfile.TemporaryDirectory(prefix="bench-trl-") as scratch:
            self._model.save_pretrained(scratch)
            return load_adapter(Path(scratch))

    def _trainer(self, spec: TaskSpec, rows: list[TokenRow], course: Course, scratch: str) -> Any:
        settings, train, lora = self._settings, spec.train, self._lora
        model = AutoModelForCausalLM.from_pretrained(
            self._folder, dtype=native_dtype(), attn_implementation=settings.attention
        )
        return SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=scratch,
                max_steps=course.steps,
                per_device_train_batch_size=course.batch_rows,
                learning_rate=train.learning_rate,
                lr_scheduler_type="linear",
                # Its first step has rate 0 where ours has that of the second.
                warmup_steps=max(1, round(course.steps * train.warmup)) - 1,
                weight_decay=train.weight_decay,
                max_grad_norm=train.max_grad_norm,
                seed=train.seed,
                use_cpu=True,
                bf16=settings.autocast and has_bf16_products(),
                gradient_checkpointing=settings.checkpointing,
                completion_only_loss=True,
                max_length=None,
                padding_free=settings.padding_free,
                train_sampling_strategy=settings.order,
                dataloader_num_workers=0,
                dataloader_pin_memory=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                eval_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list([_row(row) for row in rows]),
            processing_class=self._tokenized.tokenizer,
            peft_config=LoraConfig(
                task_type="CAUSAL_LM",
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=0.0,
                target_modules=[target.split(".")[1] for target in LORA_TARGETS],
                layers_to_transform=list(range(*lora.layers)),
                layers_pattern="layers",
            ),
        )


def _row(row: TokenRow) -> dict[str, list[int]]:
    mask = [0] * row.supervised_from + [1] * row.supervised
    return {"input_ids": row.ids, "completion_mask": mask}
