"""DeepSpeed's part in a training: its settings, and what a process holds of a parameter that is divided."""

from __future__ import annotations

from typing import Any

import torch

STAGE_DIVIDES_WEIGHTS = 3


def by_deepspeed(trainer: Any) -> bool:
    """True where DeepSpeed trains."""
    return bool(getattr(trainer, "is_deepspeed_enabled", False))


def zero_config(trainer: Any) -> dict[str, Any]:
    """DeepSpeed's settings, as it was given them; empty where it does not train."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None) if by_deepspeed(trainer) else None
    found = getattr(plugin, "deepspeed_config", None)
    return found if isinstance(found, dict) else {}


def stage_of(trainer: Any) -> int:
    """ZeRO's stage, 0 where DeepSpeed divides nothing, or does not train."""
    stage = zero_config(trainer).get("zero_optimization", {}).get("stage", 0)
    return int(stage) if isinstance(stage, int) else 0


def gathers_weights(trainer: Any) -> bool:
    """True where a save has the weights in a file of their own, so that they can be told from the rest."""
    name = "stage3_gather_16bit_weights_on_model_save"
    return stage_of(trainer) < STAGE_DIVIDES_WEIGHTS or bool(zero_config(trainer)["zero_optimization"].get(name))


def loads_universal(trainer: Any) -> bool:
    """True where DeepSpeed is to load a checkpoint that was converted for any number of processes."""
    checkpoint = zero_config(trainer).get("checkpoint", {})
    return isinstance(checkpoint, dict) and bool(checkpoint.get("load_universal"))


def writes_later(trainer: Any) -> bool:
    """True where DeepSpeed's writer goes on while the training does, and says later that it is done."""
    checkpoint = zero_config(trainer).get("checkpoint", {})
    writer = checkpoint.get("writer") if isinstance(checkpoint, dict) else None
    return isinstance(writer, dict) and bool(writer.get("decoupled"))


def whole_shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """The shape of a parameter as the model has it, whatever of it this process holds."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def whole_numel(parameter: torch.Tensor) -> int:
    """The same for the number of its values."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def part_of(parameter: torch.Tensor) -> torch.Tensor:
    """What this process holds of a parameter for good: its part of it under ZeRO-3, else all."""
    return getattr(parameter, "ds_tensor", parameter)
