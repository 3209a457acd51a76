"""Which engine saves a training: the fast one where it can serve, else the stock writers, and why."""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple, get_args

from keepstep.engine import FastEngine
from keepstep.errors import SettingsError
from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.integrations.transformers.setup.own_code import SAVES, own
from keepstep.integrations.transformers.setup.sharding import writes_shards
from keepstep.snapshot.arena import Arena
from keepstep.snapshot.device import DeviceCopy
from keepstep.units import parse_size

EngineName = Literal["auto", "fast", "stock"]


class Choice(NamedTuple):
    """An engine, or None for the stock writers; which it is and why, in words; whether it may still become stock."""

    engine: FastEngine | None
    text: str
    may_change: bool


def choose_engine(trainer: Any, engine: str, arena: str | None) -> Choice:
    """The fast engine where it is asked for or, by "auto", where it can serve. Raises SettingsError where it can't."""
    limit = None if arena is None else parse_size(arena, "arena")
    if engine not in get_args(EngineName):
        raise SettingsError(f"engine is {engine!r}", hint="It is 'auto', 'fast' or 'stock'.")
    if engine == "stock":
        return Choice(None, "stock engine", False)
    reason = why_not_fast(trainer)
    if reason and engine == "fast":
        raise SettingsError(f"engine='fast' can't save this training: {reason}", hint="Use engine='auto' or 'stock'.")
    if not reason and engine == "auto":
        reason = why_not_unasked(trainer)
    device = trainer.args.device
    if not reason and device.type != "cpu" and engine == "auto":
        reason = f"its tensors are on {device.type}, where the fast engine is new; engine='fast' asks for it"
    if reason:
        return Choice(None, f"stock engine: {reason}", False)
    share = 1 / _savers_here(trainer)
    if device.type == "cpu":
        return Choice(FastEngine(Arena(limit, share=share)), "fast engine", engine == "auto")
    copy = DeviceCopy(device)
    arena_there = Arena(limit, share=share, pin=copy.pin, unpin=copy.unpin)
    return Choice(FastEngine(arena_there, copy), f"fast engine on {device}", False)


def why_not_fast(trainer: Any) -> str:
    """Why the fast engine can't serve this trainer, empty when it can."""
    args = trainer.args
    if args.device.type not in ("cpu", "cuda"):
        return f"its tensors are on {args.device.type}"
    if getattr(trainer, "is_deepspeed_enabled", False):
        return "DeepSpeed writes its own files"
    if getattr(trainer, "is_fsdp_enabled", False) and not writes_shards(trainer):
        return "FULL_STATE_DICT gathers the whole state while the training waits; SHARDED_STATE_DICT does not"
    if any(word in plain(args.optim).lower() for word in _STEPS_IN_BACKWARD):
        return f"the optimizer {plain(args.optim)} changes the weights during the backward pass"
    return ""


def _savers_here(trainer: Any) -> int:
    """How many processes of this machine have a copy of their own to keep; where nobody says it, all there are."""
    if not writes_shards(trainer):
        return 1
    said = (os.environ.get(name, "") for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"))
    return max(1, next((int(number) for number in said if number.isdigit()), trainer.args.world_size))


def why_not_unasked(trainer: Any) -> str:
    """Why the fast engine is not taken unless it is asked for, empty when it is."""
    writers = own(trainer, SAVES)
    return f"{' and '.join(writers)} may read what was just written" if writers else ""


_STEPS_IN_BACKWARD = ("lomo", "layerwise")
"""Words in the names of optimizers that step while gradients are computed, before anything could wait at the gate."""
