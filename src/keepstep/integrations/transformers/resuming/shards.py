"""What one process holds of a state that is divided: the local part of each tensor, by its name in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from keepstep.integrations.transformers.resuming.trained import adapted, parts_of
from keepstep.integrations.transformers.resuming.watched import bare_optimizer, optimizer_state, tensors_within
from keepstep.integrations.transformers.setup.zero import by_deepspeed, part_of, stage_of

_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")
"""What may stand in a name for a module around a module, and says nothing of the state."""

_MASTERS = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups_flat_partition")
"""Where ZeRO's optimizers have the weights that they change: of stages 1 and 2, of stage 3, and of stage 1 in bf16."""
MASTER = "weights"

Tensors = dict[str, torch.Tensor]


def local_state(trainer: Any) -> tuple[Tensors, Tensors]:
    """Of the model what the checkpoint has, and of its optimizer's state: the part that this process holds."""
    parts = parts_of(trainer.model)
    saved = parts.trained if adapted(trainer.model) else parts.state
    return _local(saved), _local(_zero_state(trainer) or optimizer_state(trainer))


def layout_of(trainer: Any) -> str:
    """How the parameters are divided among the processes: parts of the same layout can be compared."""
    if by_deepspeed(trainer):
        return f"ZeRO-{stage_of(trainer)} on {trainer.args.world_size}"
    return "; ".join(sorted({_layout(tensor) for tensor in parts_of(trainer.model).state.values()}))


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What lies in this process of a tensor."""
    to_local: Any = getattr(tensor, "to_local", None)
    return part_of(tensor) if to_local is None else to_local()


def _zero_state(trainer: Any) -> Tensors:
    """What ZeRO's optimizer holds in this process: the flat parts of its own weights, and their moments."""
    if not by_deepspeed(trainer):
        return {}
    zero = bare_optimizer(trainer)
    parts: Any = next((found for name in _MASTERS if (found := getattr(zero, name, None))), ())
    state: Any = getattr(getattr(zero, "optimizer", None), "state", {})
    held = {f"#{number}|{MASTER}": part.detach() for number, part in enumerate(parts)}
    for number, part in enumerate(parts):
        held |= {f"#{number}|{key}": tensor for key, tensor in tensors_within(state.get(part))}
    return held


def _local(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    with torch.no_grad():
        return {_bare(name): local_part(tensor) for name, tensor in tensors.items()}


def _layout(tensor: Any) -> str:
    mesh = getattr(tensor, "device_mesh", None)
    return "whole" if mesh is None else f"{tuple(mesh.shape)} {_plain(tensor.placements)}"


def _plain(placements: Iterable[Any]) -> str:
    return " ".join(str(placement) for placement in placements)


def _bare(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name
