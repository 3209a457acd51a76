"""Callbacks of others: which of them act at an event, and which read the checkpoint that was just saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from transformers import TrainerCallback

_TRUSTED = ("transformers.", "trl.", "keepstep.")
"""Packages whose callbacks change no weights between a save and the next optimizer step."""
_READS: dict[str, Callable[[Any], bool]] = {
    "WandbCallback": lambda callback: getattr(callback, "_log_model", "checkpoint") == "checkpoint",
    "TrackioCallback": lambda callback: False,
    "SwanLabCallback": lambda callback: False,
    "MLflowCallback": lambda callback: bool(getattr(callback, "_log_artifacts", True)),
    "NeptuneCallback": lambda callback: getattr(callback, "_log_checkpoints", True) is not None,
    "ClearMLCallback": lambda callback: bool(getattr(callback, "_log_model", True)),
    "DVCLiveCallback": lambda callback: getattr(callback, "_log_model", "all") == "all",
    "FlyteCallback": lambda callback: bool(getattr(callback, "sync_checkpoints", True)),
}
"""Reporters of transformers.integrations: whether their `on_save` looks at the checkpoint, as they are configured."""


def acts(callbacks: Iterable[Any], event: str) -> bool:
    """True when a callback that is not known to leave the weights alone does something at `event`."""
    return any(hears(callback, event) for callback in callbacks)


def hears(callback: Any, event: str) -> bool:
    """True when a callback that is none of the libraries' does something at `event`."""
    return overrides(callback, event) and not _is_trusted(callback)


def readers(callbacks: Iterable[Any]) -> list[str]:
    """Names of the callbacks that may read a checkpoint as soon as `on_save` tells of it."""
    found = [callback for callback in callbacks if overrides(callback, "on_save") and _reads(callback)]
    return sorted({type(callback).__name__ for callback in found})


def _reads(callback: Any) -> bool:
    known = _READS.get(type(callback).__name__) if is_of(callback, "transformers.") else None
    return known(callback) if known is not None else not is_of(callback, "keepstep.")


def overrides(callback: Any, event: str) -> bool:
    """True when a callback does something at `event`."""
    method = getattr(callback, event, None)
    return method is not None and getattr(method, "__func__", method) is not getattr(TrainerCallback, event, None)


def _is_trusted(callback: Any) -> bool:
    return is_of(callback, _TRUSTED)


def is_of(callback: Any, packages: str | tuple[str, ...]) -> bool:
    """True when the callback's class comes from one of the packages, each with a dot at its end."""
    return f"{type(callback).__module__}.".startswith(packages)
