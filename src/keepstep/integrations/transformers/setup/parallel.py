"""Which ways to train on several processes are served: data parallel (DDP), where rank 0 holds the whole state."""

from __future__ import annotations

from typing import Any

from keepstep.errors import SettingsError
from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.snapshot.ranks import Ranks

_DATA_PARALLEL = "MULTI_"
"""What accelerate's names of distributed types begin with where every process has all weights (MULTI_GPU, ...)."""
_SHARDED_SIZES = ("tp_size", "cp_size", "sp_size", "dp_shard_size")
_SUPPORTED = (
    "Several processes are served as data parallel training (DDP: torchrun or accelerate launch, without FSDP, "
    "DeepSpeed or tensor parallelism). Train so, or on one process, or without keepstep.attach."
)


def ranks_of(trainer: Any) -> Ranks:
    """The processes that train together with this one. Raises SettingsError where they don't all hold all weights."""
    args = trainer.args
    if args.world_size == 1:
        return Ranks()
    sharded = _why_sharded(trainer)
    if sharded:
        raise SettingsError(f"this training runs on {args.world_size} processes with {sharded}", hint=_SUPPORTED)
    if args.save_on_each_node:
        raise SettingsError(
            f"save_on_each_node=True in a training on {args.world_size} processes: keepstep writes in rank 0 alone",
            hint="Set save_on_each_node=False; the other nodes read checkpoints from the same path.",
        )
    return Ranks(args.process_index, args.world_size, patience=float(args.ddp_timeout))


def _why_sharded(trainer: Any) -> str:
    """What keeps a process from holding the whole state, empty where nothing does."""
    kind = plain(trainer.accelerator.distributed_type)
    if trainer.args.deepspeed or kind == "DEEPSPEED":
        return "DeepSpeed"
    if trainer.args.fsdp or kind == "FSDP":
        return "FSDP"
    if getattr(trainer, "is_tp_enabled", False) or getattr(trainer, "is_distributed_loading_by_transformers", False):
        return "a model that is divided among them (tensor parallelism)"
    config = getattr(trainer.accelerator, "parallelism_config", None)
    sizes = {name: getattr(config, name, 1) for name in _SHARDED_SIZES}
    divided = [f"{name}={size}" for name, size in sizes.items() if size and size > 1]
    if divided:
        return f"a model that is divided among them ({', '.join(divided)})"
    return "" if kind.startswith(_DATA_PARALLEL) else f"distributed type {kind}"
