"""Weights of a thinned checkpoint into a model that DeepSpeed holds: its own loader reads nothing but whole ones."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from keepstep.errors import ResumeRefused
from keepstep.integrations.transformers.resuming.renamed import all_files_of
from keepstep.integrations.transformers.resuming.trained import adapted, trained, unwrapped
from keepstep.integrations.transformers.setup.sharding import Division, division_of
from keepstep.integrations.transformers.setup.zero import STAGE_DIVIDES_WEIGHTS, by_deepspeed, stage_of
from keepstep.snapshot.ranks import LEAD


def weights_alone(trainer: Any, directory: Path) -> bool:
    """True where DeepSpeed trains, and finds nothing of its own in a checkpoint."""
    return by_deepspeed(trainer) and division_of(directory) is not Division.ZERO


def load_alone(trainer: Any, directory: Path, stock: Callable[[], None]) -> None:
    """Put a checkpoint's weights into the model, on all ranks at once; the optimizer keeps its own: for a model that is
    used, and not trained on.

    `stock` loads them into a model whose parameters are there as a whole. Under ZeRO-3 these are gathered for it, the
    adapters together, a whole model's module by module. Raises ResumeRefused for tensors that the model has not.
    """
    if stage_of(trainer) < STAGE_DIVIDES_WEIGHTS:
        stock()
        return
    gathered: Any = import_module("deepspeed").zero.GatheredParameters
    model = unwrapped(trainer.model)
    if adapted(model):
        with gathered(list(trained(model).values()), modifier_rank=LEAD):
            stock()
        return
    homes = {name: path for path in all_files_of(model, directory) or [] for name in _names(path)}
    for prefix, module in model.named_modules():
        own = {f"{prefix}.{name}".lstrip("."): value for name, value in module.named_parameters(recurse=False)}
        buffers = {f"{prefix}.{name}".lstrip("."): value for name, value in module.named_buffers(recurse=False)}
        with gathered(list(own.values()), modifier_rank=LEAD), torch.no_grad():
            mine = {**own, **buffers} if trainer.args.process_index == LEAD else buffers
            for name in mine.keys() & homes.keys():
                mine[name].copy_(_read(homes[name], name))
    known = model.state_dict().keys()
    if strange := sorted(homes.keys() - known):
        raise ResumeRefused(
            f"{directory} has {len(strange)} tensors that go by other names in this model: {', '.join(strange[:3])}",
            hint="Load it by from_pretrained.",
        )


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _read(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)
