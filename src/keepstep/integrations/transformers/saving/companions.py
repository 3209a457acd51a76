"""What a sharded checkpoint needs beside its shards to be a model: its configs, and its tokenizer."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from keepstep.integrations.transformers.resuming.trained import adapted, unwrapped

TRAINING_ARGS = "training_args.bin"
_WRAPPED = "FSDP"
"""What `fully_shard` puts before the name of a module's class."""


def write_companions(trainer: Any, directory: Path) -> None:
    """Write what the stock Trainer leaves out where each process writes a part of the weights. Raises OSError."""
    model = unwrapped(trainer.model)
    if adapted(model):
        for name, config in model.peft_config.items():
            home = directory if name == "default" else directory / name
            home.mkdir(exist_ok=True)
            _write_adapter(config, home)
    elif isinstance(model, PreTrainedModel):
        _write_config(model, directory)
    if trainer.processing_class is not None:
        trainer.processing_class.save_pretrained(str(directory))
    elif (tokenizer := getattr(trainer.data_collator, "tokenizer", None)) is not None:
        tokenizer.save_pretrained(str(directory))
    torch.save(trainer.args, directory / TRAINING_ARGS)


def class_of(model: Any) -> str:
    """The name of a model's class as it was before it was divided."""
    return type(model).__name__.removeprefix(_WRAPPED)


def _write_config(model: PreTrainedModel, directory: Path) -> None:
    config: Any = copy(model.config)
    config.architectures = [class_of(model)]
    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)
    if dtype is not None:
        config.dtype = str(dtype).removeprefix("torch.")
    config.save_pretrained(str(directory))
    generation: Any = getattr(model, "generation_config", None)
    if generation is not None and model.can_generate():
        generation.save_pretrained(str(directory))


def _write_adapter(config: Any, home: Path) -> None:
    config = copy(config)
    config.inference_mode = True  # as PEFT saves it
    config.save_pretrained(str(home))
