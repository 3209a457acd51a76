"""What a training leaves to be compared, as plain values, and the differences of two of them in words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from keepstep import Checkpointer

Facts = Mapping[str, Any]
CLOCKS = ("_runtime", "_per_second", "_preparation_time", "step_time")
"""Endings of the values of a log that a clock measured."""
UNCOMPARED = ("receipt",)
OURS_ALONE = ("best path",)
"""Not compared with the stock Trainer's: ours may have given up other checkpoints by then, by its own rules."""
COURSE = ("weights", "step", "epoch", "max steps")
BEST = ("best metric", "best step")
SHOWN = 3
"""Names of a line of the log that are told."""


class Gap(IntEnum):
    """How far a training is from what it should be. Larger is further."""

    NONE = 0
    LOG = 1
    FACTS = 2
    COURSE = 3
    RESUME_FAILS = 4
    TRAINING_FAILS = 5


def facts_of(trainer: Trainer, checkpointer: Checkpointer | None) -> Facts:
    """The outcome of a training: weights, where it ended, its best, and its log without what a clock measured."""
    state = trainer.state
    receipt = checkpointer and checkpointer.receipt
    return {
        "weights": digest(trainer.model.state_dict()),
        "step": state.global_step,
        "epoch": state.epoch,
        "max steps": state.max_steps,
        "best metric": state.best_metric,
        "best step": getattr(state, "best_global_step", None),
        "best path": state.best_model_checkpoint and Path(state.best_model_checkpoint).name,
        "log": [_timeless(entry) for entry in state.log_history],
        "receipt": receipt and {"level": receipt.level.value, "why": [str(reason.text) for reason in receipt.reasons]},
    }


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A short digest of names, types and bits."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(
            tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        )
    return found.hexdigest()[:12]


def differences(one: Facts, other: Facts, leave_out: Iterable[str] = ()) -> dict[str, str]:
    """What differs, by the name of the fact, in words: the first's value, then the second's."""
    names = [name for name in one | other if name not in (*UNCOMPARED, *leave_out)]
    return {
        name: _log(one[name], other[name]) if name == "log" else f"{name}: {one.get(name)} and {other.get(name)}"
        for name in names
        if repr(one.get(name)) != repr(other.get(name))
    }


def gap(names: Iterable[str]) -> Gap:
    """How far a training is off that differs in these facts."""
    return max((Gap.COURSE if n in COURSE else Gap.LOG if n == "log" else Gap.FACTS for n in names), default=Gap.NONE)


def plain(value: Any) -> Any:
    """A value of numpy's or torch's as JSON can carry it; any other as its text."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _timeless(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sorted(entry.items()) if not name.endswith(CLOCKS) and name != "total_flos"}


def _log(one: list[Any], other: list[Any]) -> str:
    for left, right in zip(one, other, strict=False):
        if repr(left) != repr(right):
            names = [name for name in left | right if repr(left.get(name)) != repr(right.get(name))]
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            return f"log: {', '.join(names[:SHOWN])}{more} from step {left.get('step')} on"
    return f"log: {len(one)} and {len(other)} lines"
