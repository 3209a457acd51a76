"""What trains beside models and optimizers, as the rows of the second table: collators that draw, workers, streams, and
what a Trainer can be told to do. Each is built anew in every process, as a script would.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments, set_seed
from trl import SFTConfig, SFTTrainer

from tests.matrix.verdict import Verdict
from tests.training.tiny import Recipe, by_length, model, pad, sentences, texts, tokenizer

EXACT, LABELLED = Verdict.EXACT, Verdict.LABELLED
ROWS = 18
"""Rows of the data: with 4 a batch an epoch has 5 steps, and the last is short."""
SETTINGS: dict[str, Any] = {
    "max_steps": 12, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "learning_rate": 1e-2,
    "warmup_steps": 2, "weight_decay": 0.01, "logging_steps": 1, "save_strategy": "steps", "save_steps": 1,
    "use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 11,
    "remove_unused_columns": False,
}  # fmt: skip
WORKERS = {"dataloader_num_workers": 2}
STAYING = {**WORKERS, "dataloader_persistent_workers": True}
UNSEEDED = {"accelerator_config": {"use_seedable_sampler": False}}
"""The order of each epoch is drawn from the global generator."""


@dataclass(frozen=True)
class Feature:
    """A row of the table: `arguments` beside `SETTINGS`, and what is made in place of the tiny parts.

    It is resumed from each of the steps `at`. `wants` is the right verdict, `says` a part of the receipt's words where
    it is labelled. `stateful` reads through torchdata's loader, `scaled`
    trains with a gradient scaler. `needs` names what must be installed. `quick` rows are played by the suite.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    collator: Callable[[list[Any]], Any] = pad
    data: Callable[[], Any] | None = None
    optimizer: Callable[[Any], Any] | None = None
    sft: bool = False
    stateful: bool = False
    scaled: bool = False
    at: tuple[int, ...] = (3, 7)
    wants: Verdict = EXACT
    says: str = ""
    needs: str = ""
    quick: bool = False


def build(name: str, directory: Path) -> Trainer:
    """The trainer of a feature, as a script would make it."""
    feature = FEATURES[name]
    set_seed(11)
    settings = {**SETTINGS, "output_dir": str(directory), **feature.arguments}
    if feature.sft:
        usual = {"max_length": 16, "bf16": False, "gradient_checkpointing": False}
        config = SFTConfig(**{**usual, **settings})
        rows = Dataset.from_dict({"text": texts(40, seed=1)})
        return SFTTrainer(model(Recipe("sft")), config, train_dataset=rows, processing_class=tokenizer())
    trained = model(Recipe())
    made = Trainer(
        trained,
        TrainingArguments(**settings),
        train_dataset=(feature.data or rows_of)(),
        eval_dataset=Dataset.from_dict({"input_ids": sentences(6, seed=2)}),
        data_collator=feature.collator,
        processing_class=tokenizer(),
        optimizers=(feature.optimizer(trained.parameters()) if feature.optimizer else None, None),
    )
    # transformers has no argument for it.
    made.accelerator.dataloader_config.use_stateful_dataloader = feature.stateful
    if feature.scaled:
        # accelerate makes one for a GPU alone.
        made.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    return made


# -- data ------------------------------------------------------------------------------------------------


def rows_of() -> Dataset:
    """Rows with numbers."""
    return Dataset.from_dict({"input_ids": sentences(ROWS, seed=1)})


def transformed() -> Dataset:
    """Rows that a transform changes, drawn from numpy's generator."""
    return rows_of().with_transform(_replace)


def _replace(rows: dict[str, Any]) -> dict[str, Any]:
    return {"input_ids": [[word if np.random.random() < 0.85 else 3 for word in row] for row in rows["input_ids"]]}


def stream() -> Any:
    """A stream of `datasets`, from two shards."""
    return rows_of().to_iterable_dataset(2)


def mapped_stream() -> Any:
    """A stream that is changed on the way, in batches, and leaves rows out."""
    return stream().map(_turned, batched=True, batch_size=3).filter(_is_long)


def _turned(rows: dict[str, Any]) -> dict[str, Any]:
    return {"input_ids": [row[::-1] for row in rows["input_ids"]]}


def _is_long(row: dict[str, Any]) -> bool:
    return len(row["input_ids"]) > 3


def shuffled_stream() -> Any:
    """A stream with a buffer, which its state leaves out."""
    return stream().shuffle(seed=3, buffer_size=7)


class Plain(IterableDataset[Any]):
    """A stream without a state."""

    def __iter__(self) -> Iterator[Any]:
        return iter(rows_of())


class Changing(IterableDataset[Any]):
    """A stream that is never the same twice."""

    def __iter__(self) -> Iterator[Any]:
        drawn = random.SystemRandom().sample(list(rows_of()), ROWS)
        return iter(drawn)


# -- collators -------------------------------------------------------------------------------------------


def torch_draws(rows: list[Any]) -> Any:
    """Masks, drawn from torch's generator."""
    return _masked(rows, lambda shape: torch.rand(shape) < 0.15)


def numpy_draws(rows: list[Any]) -> Any:
    """Masks, drawn from numpy's generator."""
    return _masked(rows, lambda shape: torch.from_numpy(np.random.random(shape) < 0.15))


def python_draws(rows: list[Any]) -> Any:
    """Masks, drawn from Python's generator."""
    return _masked(rows, lambda shape: torch.tensor([[random.random() < 0.15] * shape[1] for _ in range(shape[0])]))


def _masked(rows: list[Any], draw: Callable[[Any], torch.Tensor]) -> Any:
    batch = pad(rows)
    batch["input_ids"] = batch["input_ids"].masked_fill(draw(tuple(batch["input_ids"].shape)), 3)
    return batch


# -- optimizers ------------------------------------------------------------------------------------------


class Lion(torch.optim.Optimizer):
    """The sign of an interpolation between momentum and gradient, as its paper has it."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                moment = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(moment.lerp(parameter.grad, 1 - first).sign(), alpha=-group["lr"])
                moment.lerp_(parameter.grad, 1 - second)


EVERY = {"eval_strategy": "steps", "eval_steps": 2}
_ALL = (
    Feature("an order of the global generator", UNSEEDED),
    Feature("grouped by length", by_length()),
    Feature("a collator that draws from torch", collator=torch_draws),
    Feature("a collator that draws from numpy", UNSEEDED, collator=numpy_draws),
    Feature("a collator that draws from random", {"gradient_accumulation_steps": 2}, collator=python_draws),
    Feature("a transform that draws from numpy", data=transformed),
    Feature("a collator that draws from torch, two workers", WORKERS, torch_draws, quick=True),
    Feature("a collator that draws from numpy, two workers", WORKERS, numpy_draws),
    Feature("a collator that draws from random, two workers", WORKERS, python_draws),
    Feature("a transform that draws, two workers", WORKERS, data=transformed),
    Feature("a collator that draws, persistent workers", STAYING, torch_draws, at=(2, 5, 7)),
    Feature("a stream, two workers, with a collator that draws", WORKERS, torch_draws, data=stream),
    Feature("persistent workers", STAYING),
    Feature("persistent workers, an order of the global generator, evaluated", {**STAYING, **UNSEEDED, **EVERY},
            at=(2, 5, 7), quick=True),
    Feature("a stream of datasets, in its third pass", data=stream, at=(3, 5, 7, 11), quick=True),
    Feature("a stream, mapped and filtered, batches not dispatched",
            {"accelerator_config": {"dispatch_batches": False}}, data=mapped_stream),
    Feature("a stream with a shuffle buffer", data=shuffled_stream, quick=True),
    Feature("a stream, with a collator that draws", data=stream, collator=numpy_draws),
    Feature("a stream, two workers", WORKERS, data=stream),
    Feature("a stream of torch, without a state", data=Plain),
    Feature("a stream that is never the same twice", data=Changing, wants=LABELLED, says="gives other batches"),
    Feature("a stream, torchdata's loader", data=stream, stateful=True, needs="torchdata", at=(3, 7, 11)),
    Feature("a stream, torchdata's loader, two workers", WORKERS, data=stream, stateful=True, needs="torchdata"),
    Feature("ignore_data_skip", {"ignore_data_skip": True}, at=(3, 7), wants=LABELLED,
            says="the epoch's data begins anew"),
    Feature("evaluation in between", EVERY, at=(2, 3, 5)),
    Feature("bf16 autocast", {"bf16": True}),
    Feature("fp16, which accelerate leaves out on a CPU", {"fp16": True}),
    Feature("a gradient scaler that grows", scaled=True),
    Feature("gradient checkpointing", {"gradient_checkpointing": True}),
    Feature("NEFTune", {"neftune_noise_alpha": 5.0}),
    Feature("torch.compile, traced (aot_eager)", {"torch_compile": True, "torch_compile_backend": "aot_eager"}),
    Feature("Adafactor", {"optim": "adafactor"}),
    Feature("Lion, by hand", optimizer=Lion),
    Feature("AdamW with 8 bits", {"optim": "adamw_bnb_8bit"}, needs="bitsandbytes"),
    Feature("Lion with 8 bits", {"optim": "lion_8bit"}, needs="bitsandbytes"),
    Feature("SFT, packing", {"packing": True}, sft=True),
    Feature("SFT, padding-free", {"padding_free": True, "max_length": None}, sft=True),
)  # fmt: skip
FEATURES = {feature.name: feature for feature in _ALL}
