"""Tensors that move beside the model: references and teachers that follow it, averages, what optimizers keep apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from keepstep.engine import memory_of
from keepstep.integrations.transformers.resuming.attributes import NAMES
from keepstep.integrations.transformers.resuming.buffers import BUFFER
from keepstep.integrations.transformers.resuming.own_generators import FIRST, callbacks_of
from keepstep.integrations.transformers.resuming.trained import live_tensors, read_extra, unwrapped
from keepstep.integrations.transformers.resuming.watched import bare_optimizer
from keepstep.integrations.transformers.setup.messages import listed, logger
from keepstep.snapshot.finding import Place, walk

PREFIX = "trainer."
"""What the names in the extra file begin with: the path from the trainer follows."""
SAMPLED_VALUES = 64
"""Values of each tensor by which is seen whether it has moved."""
MOST_ITEMS = 100_000
"""Items of one container that are looked at: averages lie in dictionaries with an item for each parameter."""
_CONTAINERS = (dict, list, tuple)
_APART = (
    *FIRST, *NAMES, BUFFER, "model", "model_wrapped", "optimizer", "lr_scheduler", "accelerator", "callback_handler",
    "state", "control", "args", "_tr_loss", "current_flos", "deepspeed", "is_in_train",
)  # fmt: skip
_OF_OPTIMIZERS = ("param_groups", "state", "defaults")
_LIBRARIES = ("torch.", "transformers.", "accelerate.", "bitsandbytes.", "deepspeed.")
Numbers = dict[str, int | float]


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor by its path: `group` is the path of the module or container that it is in, `owners` whose it is."""

    tensor: torch.Tensor
    group: str
    owners: tuple[tuple[str, Any], ...]


class Moving:
    """What of one trainer moves beside its model, from the begin of a training on.

    What has been seen to move once is kept with every checkpoint, and with it the numbers that change beside it.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._begun: dict[str, int] = {}
        self._numbers: Numbers = {}
        self._moved: set[str] = set()
        self._changed: set[str] = set()

    @property
    def moved(self) -> list[str]:
        """The paths of what has been seen to move."""
        return sorted(self._moved)

    def begin(self, directory: Path | None, numbers: Mapping[str, int | float]) -> list[str]:
        """Note what there is; of a resume, put back what its checkpoint holds. Returns what has no place."""
        held = tensors_beside(self._trainer)
        values = {} if directory is None else read_extra(directory)
        values = {name.removeprefix(PREFIX): value for name, value in values.items() if name.startswith(PREFIX)}
        lost: list[str] = []
        with torch.no_grad():
            for path, value in values.items():
                there = held[path].tensor if path in held else None
                if there is None or there.shape != value.shape:
                    lost.append(path)
                else:
                    there.data.copy_(value)
        owners = _owners(self._trainer, held)
        for path, number in numbers.items():
            owner, _, name = path.rpartition(".")
            if owner in owners and name in vars(owners[owner]):
                vars(owners[owner])[name] = number
            else:
                lost.append(path)
        self._moved = {held[path].group for path in values if path in held}
        self._changed = set(numbers)
        self._begun, self._numbers = _sampled(held), _numbers(owners)
        if lost:
            logger.warning(
                "%s moved beside the model when the checkpoint was saved, and %s not found here: new from here on",
                listed(lost), "is" if len(lost) == 1 else "are",
            )  # fmt: skip
        return lost

    def capture(self) -> tuple[dict[str, torch.Tensor], Numbers]:
        """The tensors that have moved, under their names in the extra file, and the numbers that have changed."""
        held = tensors_beside(self._trainer)
        still = {path: one for path, one in held.items() if one.group not in self._moved}
        now = _sampled(still)
        self._moved |= {held[path].group for path, seen in now.items() if self._begun.get(path) != seen}
        moving = {path: one for path, one in held.items() if one.group in self._moved}
        numbers = _numbers(_owners(self._trainer, moving))
        self._changed |= {path for path, number in numbers.items() if self._numbers.get(path) != number}
        kept = {f"{PREFIX}{path}": one.tensor for path, one in moving.items()}
        return kept, {path: number for path, number in numbers.items() if path in self._changed}


def tensors_beside(trainer: Any) -> dict[str, Held]:
    """What the trainer, its callbacks and its optimizer hold and is no part of its model, by path, each memory once."""
    known = {memory_of(tensor) for tensor in live_tensors(trainer.model).values()}
    found: dict[str, Held] = {}
    roots = callbacks_of(trainer)
    roots |= {n: v for n, v in vars(trainer).items() if n not in _APART and not n.startswith("_keepstep")}
    if (optimizer := _own_optimizer(trainer)) is not None:
        roots |= {f"optimizer.{n}": v for n, v in vars(optimizer).items() if n not in _OF_OPTIMIZERS}
    apart = [trainer, trainer.model, unwrapped(trainer.model), trainer.model_wrapped, trainer.args, optimizer]
    for place in walk(roots, apart, most_items=MOST_ITEMS):
        for path, tensor in _tensors_at(place):
            memory = memory_of(tensor)
            if memory is not None and memory not in known:
                known.add(memory)
                owners = _owners_of(place, optimizer)
                found[path] = Held(tensor, _group_of(place), owners)
    return found


def _tensors_at(place: Place) -> Iterator[tuple[str, torch.Tensor]]:
    """What a place has of tensors. Only containers, modules, callbacks and objects of the user's are looked into."""
    value = place.value
    if isinstance(value, torch.Tensor):
        yield place.path, value
    elif isinstance(value, torch.nn.Module):
        place.closed = True
        if place.fresh:
            yield from ((f"{place.path}.{name}", tensor) for name, tensor in live_tensors(value).items())
    elif not isinstance(value, _CONTAINERS):
        place.closed = not _is_looked_into(value)


def _group_of(place: Place) -> str:
    """The path of the container that a tensor is in, or its own."""
    parent = place.parent
    return parent.path if parent is not None and isinstance(parent.value, _CONTAINERS) else place.path


def _owners_of(place: Place, optimizer: Any) -> tuple[tuple[str, Any], ...]:
    """The objects that lead to a place, from the root on."""
    found: list[tuple[str, Any]] = []
    above = place.parent
    while above is not None:
        if not isinstance(above.value, _CONTAINERS):
            found.append((above.path, above.value))
        above = above.parent
    if place.root.startswith("optimizer."):
        found.append(("optimizer", optimizer))
    return tuple(reversed(found))


def _is_looked_into(value: Any) -> bool:
    """True for objects of the user's, and for callbacks of anybody's."""
    from transformers import TrainerCallback

    module = f"{type(value).__module__}."
    if module.startswith("keepstep.") or not isinstance(getattr(value, "__dict__", None), dict):
        return False
    theirs = module.startswith((*_LIBRARIES, "trl.", "peft.", "datasets.", "builtins.", "tokenizers."))
    return not theirs or isinstance(value, TrainerCallback)


def _own_optimizer(trainer: Any) -> Any:
    """The optimizer where it is none of the libraries', which keep all in their `state_dict`."""
    optimizer = bare_optimizer(trainer)
    if optimizer is None or f"{type(optimizer).__module__}.".startswith(_LIBRARIES):
        return None
    return optimizer


def _owners(trainer: Any, held: Mapping[str, Held]) -> dict[str, Any]:
    owners = {path: owner for one in held.values() for path, owner in one.owners}
    optimizer = _own_optimizer(trainer)
    return owners if optimizer is None else {**owners, "optimizer": optimizer}


def _numbers(owners: Mapping[str, Any]) -> Numbers:
    return {
        f"{path}.{name}": value
        for path, owner in owners.items()
        for name, value in vars(owner).items()
        if type(value) in (int, float) and not name.startswith("__")
    }


def _sampled(held: Mapping[str, Held]) -> dict[str, int]:
    """A digest of evenly spread values of each tensor; those of one device and dtype come to the host at once."""
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for path, one in held.items():
        groups.setdefault((one.tensor.device, one.tensor.dtype), []).append(path)
    found: dict[str, int] = {}
    for paths in groups.values():
        pieces = [_spread(held[path].tensor) for path in paths]
        values = torch.cat(pieces).cpu().view(torch.uint8).numpy()
        size, start = pieces[0].element_size(), 0
        for path, piece in zip(paths, pieces, strict=True):
            end = start + piece.numel() * size
            found[path] = xxhash.xxh3_64_intdigest(values[start:end].tobytes())
            start = end
    return found


def _spread(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(flat.numel() // SAMPLED_VALUES, 1)][:SAMPLED_VALUES]
