"""Which of a trainer's methods are its user's own, as opposed to those of the libraries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import Trainer

OURS = "keepstep."
LIBRARIES = ("transformers.", "trl.", "peft.", "accelerate.", OURS)
"""Packages whose methods do what is known of them."""
SAVES = (
    *("_save_checkpoint", "save_model", "_save"),
    *("_save_optimizer_and_scheduler", "_save_rng_state", "_save_scaler"),
)
"""Methods of a Trainer that write a checkpoint, or a part of it."""
LOADS = ("_load_from_checkpoint", "_load_best_model")
"""Methods of a Trainer that read a checkpoint's weights."""


def own(trainer: Any, methods: Iterable[str]) -> list[str]:
    """Those of the methods that no library wrote, as `Class.method`: of a class, or put onto the instance."""
    return [name for method in methods if (name := _own(trainer, method))]


def is_stock(trainer: Any, method: str) -> bool:
    """True when the method is that of the library's `Trainer` itself, beside what manages it."""
    if method in _put_onto(trainer):
        return False
    kinds = (kind for kind in type(trainer).__mro__ if method in vars(kind) and not kind.__module__.startswith(OURS))
    return next(kinds, Trainer) is Trainer


def _put_onto(trainer: Any) -> dict[str, Any]:
    """What lies on the instance, or did before it was managed."""
    return vars(trainer) | getattr(type(trainer), "_keepstep_patched", {})


def _own(trainer: Any, method: str) -> str:
    patched = _put_onto(trainer)
    if method in patched:
        return "" if _is_of_library(patched[method]) else f"trainer.{method}"
    for kind in type(trainer).__mro__:
        found = vars(kind).get(method)
        if found is not None and not _is_of_library(found):
            return f"{kind.__name__}.{method}"
    return ""


def _is_of_library(function: Any) -> bool:
    return f"{getattr(function, '__module__', '')}.".startswith(LIBRARIES)
