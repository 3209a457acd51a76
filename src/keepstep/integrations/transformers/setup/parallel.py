"""Which ways to train on several processes are served: data parallel, FSDP2, DeepSpeed; and why others are not."""

from __future__ import annotations

from typing import Any

from keepstep.errors import SettingsError
from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.integrations.transformers.setup.sharding import LOADS_SHARDS, leaves_state_empty
from keepstep.integrations.transformers.setup.zero import by_deepspeed, writes_later, zero_config
from keepstep.snapshot.ranks import Ranks

_DATA_PARALLEL = "MULTI_"
"""What accelerate's names of distributed types begin with where every process has all weights (MULTI_GPU, ...)."""
_DIVIDED = {
    "tp_size": "tensor",
    "cp_size": "context",
    "sp_size": "sequence",
    "pp_size": "pipeline",
    "ep_size": "expert",
}
"""Sizes of accelerate's parallelism that are not served, and what each divides."""
_SUPPORTED = (
    "Served are DDP, FSDP2 (fsdp=True; HSDP by ParallelismConfig(dp_replicate_size, dp_shard_size)) and DeepSpeed's "
    "ZeRO, without tensor, context or pipeline parallelism. Train so, or on one process, or without keepstep.attach."
)


def ranks_of(trainer: Any) -> Ranks:
    """The processes that train together with this one.

    Raises SettingsError, which names the way out, where what they hold can't be saved and resumed exactly.
    """
    args = trainer.args
    sharded = _shards(trainer)
    if args.world_size == 1:
        return Ranks(sharded=sharded)
    if args.save_on_each_node:
        raise SettingsError(
            f"save_on_each_node=True in a training on {args.world_size} processes: a checkpoint is one directory, "
            "which all nodes share",
            hint="Set save_on_each_node=False; the other nodes read checkpoints from the same path.",
        )
    return Ranks(args.process_index, args.world_size, patience=float(args.ddp_timeout), sharded=sharded)


def _shards(trainer: Any) -> bool:
    """True where each process holds a part of the state, False where each has all. Raises SettingsError."""
    several = trainer.args.world_size > 1
    if getattr(trainer, "is_distributed_loading_by_transformers", False):
        raise _refused(trainer, "a model that transformers divided while it loaded it (distributed_config)", _BY_FSDP)
    if several and (divided := _divided(trainer)):
        raise _refused(trainer, divided, _SUPPORTED)
    if by_deepspeed(trainer):
        if writes_later(trainer):
            raise _refused(trainer, "a writer of DeepSpeed's that is not done when it returns (decoupled)", _COUPLED)
        return True
    if getattr(trainer, "is_fsdp_xla_enabled", False):
        raise _refused(trainer, "FSDP of torch_xla", _SUPPORTED)
    if getattr(trainer, "is_fsdp_enabled", False):
        _refuse_old_fsdp(trainer)
        return True
    kind = plain(trainer.accelerator.distributed_type)
    if several and trainer.args.fsdp and kind.startswith(_DATA_PARALLEL) and trainer.args.process_index == 0:
        text = (
            "fsdp=%r is not carried out by accelerate on %s: this trains as DDP does, with all weights in each process"
        )
        logger.warning(text, trainer.args.fsdp, kind)
    if several and not kind.startswith(_DATA_PARALLEL):
        raise _refused(trainer, f"distributed type {kind}", _SUPPORTED)
    return False


_BY_FSDP = (
    "Load the model without distributed_config, and let the Trainer divide it: fsdp=True, "
    'fsdp_config={"state_dict_type": "SHARDED_STATE_DICT"}.'
)


_COUPLED = 'Leave "decoupled" out of "writer" in the section "checkpoint" of DeepSpeed\'s config.'


def _divided(trainer: Any) -> str:
    """By which kinds of parallelism that are not served a model is divided, in words; empty where by none."""
    if getattr(trainer, "is_tp_enabled", False):
        return "tensor parallelism"
    if (size := zero_config(trainer).get("tensor_parallel", {}).get("autotp_size", 1)) > 1:
        return f"tensor parallelism (autotp_size={size})"
    config = getattr(trainer.accelerator, "parallelism_config", None)
    sizes = {name: getattr(config, name, 1) for name in _DIVIDED}
    return " and ".join(
        f"{_DIVIDED[name]} parallelism ({name}={size})" for name, size in sizes.items() if (size or 1) > 1
    )


def _refuse_old_fsdp(trainer: Any) -> None:
    plugin = trainer.accelerator.state.fsdp_plugin
    if int(getattr(plugin, "fsdp_version", 1)) != 2:
        raise _refused(
            trainer,
            "FSDP1, whose files other settings can't read, and which transformers and accelerate give up",
            'Train with FSDP2: fsdp_config={"version": 2} (fsdp_version: 2 in accelerate\'s config).',
        )
    if "SHARDED" in str(plugin.state_dict_type) and (why := leaves_state_empty()):
        raise _refused(
            trainer,
            f"SHARDED_STATE_DICT and {why}",
            f'Train with accelerate {LOADS_SHARDS} or newer: pip install "accelerate>={LOADS_SHARDS}"; or set '
            "state_dict_type to FULL_STATE_DICT.",
        )
    if "LOCAL" in str(plugin.state_dict_type):
        raise _refused(trainer, "state_dict_type LOCAL_STATE_DICT", "Set it to SHARDED_STATE_DICT.")


def _refused(trainer: Any, what: str, hint: str) -> SettingsError:
    count = int(trainer.args.world_size)
    where = f"{count} processes" if count > 1 else "one process"
    return SettingsError(f"this training runs on {where} with {what}", hint=hint)
