"""Which arguments are to take their new value at a resume: read, and checked against those that there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from keepstep.errors import SettingsError

OF_OPTIMIZER = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
"""Whose values live in the groups of the optimizer."""
OF_SCHEDULE = (
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio"),
    *("num_train_epochs", "max_steps"),
)
"""From which the plan of the rate is made."""
WORLD_SIZE = "world_size"
"""The number of processes: no argument, and changed like one."""
OF_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps", WORLD_SIZE)
"""By which an epoch is divided into steps."""
OF_CHANCE = ("seed", "data_seed")
KINDS = (*OF_OPTIMIZER, *OF_SCHEDULE, *OF_BATCH, *OF_CHANCE)
_NEVER = {
    "optim": "the state of one optimizer is none of another's",
    "output_dir": "a run is its directory: keepstep branch begins another one from a checkpoint",
}


def read_names(given: Any) -> tuple[str, ...]:
    """The names that `override` has, each once: of a sequence, or of a text with commas. Raises SettingsError."""
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, Iterable) or not all(isinstance(part, str) for part in parts):
        raise SettingsError(
            f"override is {given!r}", hint='It names arguments of the training: override=["learning_rate"].'
        )
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def check_names(names: Sequence[str], args: Any) -> None:
    """Raises SettingsError for a name that is no argument of this training, or of one that can't be overridden."""
    known = {field.name for field in fields(args)} if is_dataclass(args) else set(vars(args))
    for name in names:
        if name in _NEVER:
            raise SettingsError(f"override can't take {name!r}: {_NEVER[name]}", hint=_LIST)
        if name not in known and name != WORLD_SIZE:
            near = get_close_matches(name, [*KINDS, *known], n=2)
            meant = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise SettingsError(f"override names {name!r}, which is no argument of this training", hint=meant + _LIST)


_LIST = f"What changes by it: {', '.join(KINDS)}. Every other argument is in force anyway."
