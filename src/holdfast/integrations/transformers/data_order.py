"""The order of the training data: the sampler that draws it, held at the epoch that is resumed."""

from __future__ import annotations

from typing import Any


def sampler_of(loader: Any) -> Any:
    """The shuffling sampler with a seed of its own inside a prepared data loader, None when there is none."""
    seen: set[int] = set()
    queue = [loader]
    while queue:
        part = queue.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        if hasattr(part, "initial_seed") and hasattr(part, "set_epoch"):
            return part
        queue += [getattr(part, name, None) for name in ("sampler", "batch_sampler", "base_dataloader")]
    return None


def hold_epoch(sampler: Any, epoch: int) -> None:
    """Make the sampler draw the order of `epoch` (counted from 0), whatever epoch it is told, until it is released.

    transformers 4 resumes with a copy of the loader, and accelerate begins that copy at epoch 0.
    """
    sampler.set_epoch(epoch)
    sampler.__dict__["set_epoch"] = _stay


def release_epoch(sampler: Any) -> None:
    """Let the sampler follow the epochs it is told again."""
    sampler.__dict__.pop("set_epoch", None)


def _stay(epoch: int) -> None:
    """In place of a sampler's `set_epoch`."""
