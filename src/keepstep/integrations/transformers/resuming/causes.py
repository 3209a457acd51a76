"""What may make a resumed training take another course, as far as it can be seen in the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

import torch

from keepstep.integrations.transformers.resuming.loop_state import LoopState
from keepstep.integrations.transformers.resuming.own_generators import unrestored
from keepstep.integrations.transformers.setup.bystanders import is_of
from keepstep.integrations.transformers.setup.messages import listed

_LIBRARIES = ("transformers.", "trl.", "peft.", "accelerate.", "datasets.", "torch.", "keepstep.")
_NONDETERMINISTIC = ("flash_attention", "flash_attn", "kernels-community")
"""Attention whose backward pass adds in whatever order the device takes."""


def causes_of(trainer: Any, restored: LoopState | None = None) -> list[str]:
    """In words, the likeliest first; never empty. `restored` is the state that the training goes on from."""
    found = [*_generators(trainer, restored), *_own_code(trainer), *_device(trainer)]
    return found or ["state or random numbers that no checkpoint holds"]


def _parts(trainer: Any) -> Iterator[tuple[str, Any]]:
    """What feeds the training, and who listens to it."""
    yield "the collator", trainer.data_collator
    yield "the training data", trainer.train_dataset
    for callback in trainer.callback_handler.callbacks:
        yield "a callback", callback


def _generators(trainer: Any, restored: LoopState | None) -> Iterator[str]:
    """Generators that the training holds, and that no checkpoint has restored."""
    if names := unrestored(trainer, restored).here:
        many = "a random generator that was" if len(names) == 1 else "random generators that were"
        yield f"{many} not restored: {listed(names)}"


def _own_code(trainer: Any) -> Iterator[str]:
    """Parts of the user's own, which may hold what can't be seen."""
    if names := [f"{role} ({_name(part)})" for role, part in _parts(trainer) if not _is_of_library(part)]:
        yield f"random numbers or state of {listed(names)}"


def _device(trainer: Any) -> Iterator[str]:
    """Operations that need not give the same bits twice."""
    kind = getattr(trainer.args.device, "type", "cpu")
    if kind != "cpu" and not torch.are_deterministic_algorithms_enabled():
        yield f"operations of {kind} that are not deterministic (full_determinism=True makes them so)"
    attention = str(getattr(getattr(trainer.model, "config", None), "_attn_implementation", ""))
    if attention.startswith(_NONDETERMINISTIC):
        yield f"dropout and sums inside of {attention}"


def _is_of_library(part: Any) -> bool:
    if isinstance(part, (FunctionType, MethodType)):
        return f"{part.__module__}.".startswith(_LIBRARIES)
    return is_of(part, _LIBRARIES) or isinstance(part, (list, tuple, dict, type(None)))


def _name(part: Any) -> str:
    return getattr(part, "__name__", None) or type(part).__name__
