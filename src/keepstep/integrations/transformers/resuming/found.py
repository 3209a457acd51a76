"""Live tensors against the marks of an imprint: which are equal, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch

from keepstep.engine import Marks, marks_of


class Found(NamedTuple):
    """What a comparison found: how many tensors are equal, and the names of the others, by what is wrong."""

    equal: int
    unequal: list[str]
    """Other values."""
    cast: list[str]
    """Another dtype."""
    absent: list[str]
    """Not there, or in another shape."""
    share: float
    """The part of all values that lies in tensors that are equal."""

    @property
    def total(self) -> int:
        """How many tensors were compared."""
        return self.equal + len(self.unequal) + len(self.cast) + len(self.absent)

    @property
    def wrong(self) -> list[str]:
        """Names of all that is not equal."""
        return [*self.unequal, *self.cast, *self.absent]

    def without(self, names: Collection[str]) -> Found:
        """The same, with nothing said of what is wrong with tensors of these names."""
        return self._replace(unequal=[name for name in self.unequal if name not in names])


NOTHING = Found(0, [], [], [], 1.0)


def compared(marks: Marks, live: Mapping[str, torch.Tensor]) -> Found:
    """Live tensors against the marks of their names; those that no mark is of are not looked at. Waits for a device."""
    absent, cast, alike = list[str](), list[str](), dict[str, torch.Tensor]()
    for name, mark in marks.items():
        tensor = live.get(name)
        if tensor is None or tuple(tensor.shape) != mark.shape:
            absent.append(name)
        elif str(tensor.dtype) != f"torch.{mark.dtype}":
            cast.append(name)
        else:
            alike[name] = tensor
    now = marks_of(alike)
    unequal = [name for name in alike if now[name].digest != marks[name].digest]
    everything = sum(mark.numel for mark in marks.values())
    values = sum(mark.numel for name, mark in now.items() if mark.digest == marks[name].digest)
    return Found(len(alike) - len(unequal), unequal, cast, absent, values / everything if everything else 1.0)
