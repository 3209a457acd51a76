"""What GRPO and its like have generated and still train on, when a save falls between two generations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

BUFFER, COUNTER = "_buffered_inputs", "_step"
"""The attributes of TRL's trainers: batches with completions, and the micro-batches that were trained so far."""


def capture(trainer: Any) -> tuple[Any, str]:
    """A copy of the buffer, its counter with it, None where none is held; or in words why a resume has to do without.

    Between two generations there is nothing to keep: the next step generates anew.
    """
    batches = getattr(trainer, BUFFER, None)
    if batches is None or _is_over(trainer):
        return None, ""
    try:
        return {BUFFER: _copied(batches), COUNTER: int(getattr(trainer, COUNTER, 0))}, ""
    except (TypeError, ValueError) as error:
        return None, f"the save fell into a generation, which can't be kept ({error}): the next step generates anew"


def restore(trainer: Any, path: Path) -> None:
    """Put a buffer back that was written to a file, on the devices of this process."""
    device = trainer.args.device

    def placed(storage: Any, location: str) -> Any:
        place = location if location == "cpu" else str(device)
        return torch.serialization.default_restore_location(storage, place)

    values = torch.load(path, map_location=placed, weights_only=True)
    if hasattr(trainer, BUFFER):
        trainer.__dict__[BUFFER] = values[BUFFER]
        trainer.__dict__[COUNTER] = values[COUNTER]


def _is_over(trainer: Any) -> bool:
    """True where the next step generates; where that is not known, as if it did not."""
    args, step = trainer.args, getattr(trainer, COUNTER, None)
    parts = (getattr(args, "steps_per_generation", None), getattr(trainer, "num_iterations", 1))
    if not isinstance(step, int) or not all(isinstance(part, int) and part > 0 for part in parts):
        return False
    every = cast("int", parts[0]) * cast("int", parts[1])
    return step % every == 0


def _copied(value: Any) -> Any:
    """A copy that `torch.load` takes with `weights_only`. Raises TypeError for what it doesn't."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
        return value
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    if isinstance(value, dict):
        return {_copied(key): _copied(item) for key, item in cast("dict[Any, Any]", value).items()}
    raise TypeError(f"it holds a {type(value).__name__}")
