"""What may make a resumed training take another course, as far as it can be seen in the trainer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch

from keepstep.integrations.transformers.setup.bystanders import is_of
from keepstep.integrations.transformers.setup.messages import listed

_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_LIBRARIES = ("transformers.", "trl.", "peft.", "accelerate.", "datasets.", "torch.", "keepstep.")
_NONDETERMINISTIC = ("flash_attention", "flash_attn", "kernels-community")
"""Attention whose backward pass adds in whatever order the device takes."""


def causes_of(trainer: Any) -> list[str]:
    """In words, the likeliest first; never empty."""
    found = [*_generators(trainer), *_own_code(trainer), *_device(trainer)]
    return found or ["state or random numbers that no checkpoint holds"]


def _parts(trainer: Any) -> Iterator[tuple[str, Any]]:
    """What feeds the training, and who listens to it."""
    yield "the collator", trainer.data_collator
    yield "the training data", trainer.train_dataset
    for callback in trainer.callback_handler.callbacks:
        yield "a callback", callback


def _generators(trainer: Any) -> Iterator[str]:
    """Generators that a part draws from, and that no stock checkpoint holds."""
    for role, part in _parts(trainer):
        if names := sorted(set(_generators_of(part))):
            many = "a generator of its own" if len(names) == 1 else "generators of its own"
            yield f"{role} ({_name(part)}) draws from {many}: {listed(names)}"


def _generators_of(part: Any) -> Iterator[str]:
    """Names of generators in its attributes, and among what its functions use of their module or were closed over."""
    for name, value in getattr(part, "__dict__", {}).items():
        if isinstance(value, _GENERATORS):
            yield name
    for function in () if _is_of_library(part) else _functions(part):
        used = {name: function.__globals__.get(name) for name in function.__code__.co_names}
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for name, cell in cells:
            try:
                used[name] = cell.cell_contents
            except ValueError:  # not bound yet
                continue
        yield from (name for name, value in used.items() if isinstance(value, _GENERATORS))


def _functions(part: Any) -> Iterator[FunctionType]:
    if isinstance(part, (FunctionType, MethodType)):
        yield part if isinstance(part, FunctionType) else part.__func__  # pyright: ignore[reportReturnType]
        return
    for kind in type(part).__mro__:
        if not f"{kind.__module__}.".startswith(_LIBRARIES):
            yield from (value for value in vars(kind).values() if isinstance(value, FunctionType))


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
