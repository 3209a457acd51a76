"""Accumulation, batches, and when things happen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer

from tests.cases.parts import BY_LOSS, data, llama, trainer
from tests.cases.situation import Situation


def arguments(**given: Any) -> Callable[[Path], Trainer]:
    """The small trainer with other arguments."""
    return lambda out: trainer(out, **given)


def accumulating(batches: int, **given: Any) -> Callable[[Path], Trainer]:
    """Gradients over several batches, saved and evaluated at every step."""
    settings: dict[str, Any] = {"num_train_epochs": 3, "save_steps": 1, "eval_steps": 1, **given}
    return arguments(gradient_accumulation_steps=batches, **settings)


def of_sixteen(batch: int, accumulated: int) -> Callable[[Path], Trainer]:
    """Sixteen rows without dropout: the same rows a step, in another number of batches."""

    def build(out: Path) -> Trainer:
        model = llama()
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.0
        settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        return trainer(out, model=model, rows=data(16), **settings)

    return build


class SmallMemory(Trainer):
    """Runs out of memory with more than two rows, from step `since` on."""

    since = 0

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if inputs["input_ids"].shape[0] > 2 and self.state.global_step >= self.since:
            raise RuntimeError("CUDA out of memory. Tried to allocate more than there is")
        return super().training_step(model, inputs, *args, **kwargs)


class SmallMemoryLater(SmallMemory):
    since = 3


def finding(kind: type[Trainer]) -> Callable[[Path], Trainer]:
    """auto_find_batch_size from 8 rows on."""
    return lambda out: trainer(out, kind, auto_find_batch_size=True, per_device_train_batch_size=8)


SITUATIONS = (
    Situation(
        "a remainder of accumulation", "5 batches an epoch, 2 a step; killed at an epoch's end", accumulating(2), kill=3
    ),
    Situation("a remainder, in mid-epoch", "the same, killed one step later", accumulating(2), kill=4),
    Situation(
        "a remainder that is dropped",
        "3 batches a step, dataloader_drop_last",
        accumulating(3, dataloader_drop_last=True),
        kill=3,
    ),
    Situation(
        "more accumulated than there is", "8 batches a step in epochs of 5", accumulating(8, num_train_epochs=4), kill=2
    ),
    Situation(
        "accumulation to max_steps", "2 batches a step, 7 steps", arguments(gradient_accumulation_steps=2, max_steps=7)
    ),
    Situation(
        "saves by a share of the training",
        "save_steps, eval_steps and logging_steps below 1",
        arguments(save_steps=0.25, eval_steps=0.25, logging_steps=0.1, num_train_epochs=3),
    ),
    Situation(
        "one epoch and a half",
        "num_train_epochs is no whole number",
        arguments(num_train_epochs=1.5, save_steps=3, eval_steps=3),
        kill=6,
    ),
    Situation("evaluation that begins late", "eval_delay", arguments(eval_delay=5, num_train_epochs=3, **BY_LOSS)),
    Situation("evaluation before the first step", "eval_on_start", arguments(eval_on_start=True, **BY_LOSS)),
    Situation("noise on the embeddings", "neftune_noise_alpha", arguments(neftune_noise_alpha=5.0)),
    Situation(
        "smoothed labels, counted tokens",
        "with gradient checkpointing",
        arguments(label_smoothing_factor=0.1, include_num_input_tokens_seen=True, gradient_checkpointing=True),
    ),
    Situation("bf16", "mixed precision on the CPU", arguments(bf16=True)),
    Situation(
        "another batch at the resume",
        "1 row and 4 batches a step, then 4 rows and 1 batch, at an epoch's end",
        of_sixteen(1, 4),
        again=of_sixteen(4, 1),
    ),
    Situation(
        "another batch in mid-epoch",
        "the same, killed in the middle of an epoch",
        of_sixteen(1, 4),
        again=of_sixteen(4, 1),
        kill=2,
    ),
    Situation("auto_find_batch_size", "too many rows for the memory at first", finding(SmallMemory), kill=6),
    Situation(
        "auto_find_batch_size, later",
        "the memory is too small from step 3 on, when a checkpoint exists",
        finding(SmallMemoryLater),
        kill=6,
    ),
)
