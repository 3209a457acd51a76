"""The order of the training data: the sampler that draws it, held at the epoch that is resumed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def sampler_of(loader: Any) -> Any:
    """The shuffling sampler with a seed of its own inside a prepared data loader, None when there is none."""
    return next(
        (part for part in parts_of(loader) if hasattr(part, "initial_seed") and hasattr(part, "set_epoch")), None
    )


def generator_of(loader: Any) -> torch.Generator | None:
    """The generator that the sampler of a prepared data loader draws every epoch's order from, if it has one.

    accelerate gives it one where several processes share a sampler without a seed of its own.
    """
    if sampler_of(loader) is not None:
        return None
    found = (getattr(part, "generator", None) for part in parts_of(loader) if part is not loader)
    return next((generator for generator in found if isinstance(generator, torch.Generator)), None)


def parts_of(loader: Any) -> Iterator[Any]:
    """A prepared data loader, and the loaders and samplers inside it."""
    seen: set[int] = set()
    queue = [loader]
    while queue:
        part = queue.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        queue += [getattr(part, name, None) for name in ("sampler", "batch_sampler", "base_dataloader")]


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
