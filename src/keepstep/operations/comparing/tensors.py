"""The tensors of two checkpoints, by name: where they lie, and which can be held against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from keepstep.formats.change import Sums
from keepstep.formats.dcp_metadata import METADATA, PART, UnreadableMetadata
from keepstep.formats.dcp_tensors import ShardedPlace, places_of_ranks
from keepstep.formats.tensor_places import NoPlaces, TensorPlace, places_in
from keepstep.model import Role, role_of
from keepstep.operations.comparing.sides import Side
from keepstep.strict import finite_or_name

OPTIMIZER = ("optimizer.pt", "optimizer.bin")
_READ = (".safetensors", ".bin", ".pt", ".pth")
"""Ends of names of files whose tensors can be found."""
_IGNORED = (".json", ".md", ".txt", ".py", PART)
Place = TensorPlace | ShardedPlace


@dataclass(frozen=True, slots=True)
class NotRead:
    """A file whose tensors are in no comparison, and why."""

    path: Path
    why: str

    def to_json(self) -> dict[str, str]:
        """Plain values for machines."""
        return {"path": str(self.path), "why": self.why}


@dataclass(frozen=True, slots=True)
class Pair:
    """One name: where its tensor lies before and after, None on the side that has none."""

    name: str
    before: Place | None
    after: Place | None

    @property
    def of_optimizer(self) -> bool:
        """True for what an optimizer remembers: it is no weight."""
        return any(place is not None and _of_optimizer(place.path.name) for place in (self.before, self.after))

    @property
    def why_not(self) -> str:
        """Why the values can't be compared; empty where they can."""
        if self.before is None or self.after is None:
            return "only after" if self.before is None else "only before"
        if self.before.shape != self.after.shape:
            return "of another shape"
        return self.before.flaw or self.after.flaw

    @property
    def nbytes(self) -> int:
        """Bytes that a comparison reads."""
        if self.before is None or self.after is None or self.why_not:
            return 0
        return self.before.nbytes + self.after.nbytes


@dataclass(frozen=True, slots=True)
class TensorChange:
    """What became of a tensor; `sums` is None where the values were not compared, and `why` says so."""

    pair: Pair
    sums: Sums | None
    why: str = ""

    @property
    def order(self) -> tuple[bool, float, str]:
        """What could not be compared first, then the largest change."""
        return (self.sums is not None, -self.sums.relative if self.sums else 0.0, self.pair.name)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines: a norm is that of the whole tensor, a share from 0 to 1."""
        sums, sides = self.sums, (self.pair.before, self.pair.after)
        return {
            "name": self.pair.name,
            "relative_change": None if sums is None else finite_or_name(sums.relative),
            "unchanged": None if sums is None else sums.share_unchanged,
            "largest_change": None if sums is None else sums.largest,
            "norm_before": None if sums is None else sums.squares**0.5,
            "norm_of_change": None if sums is None else sums.change**0.5,
            "non_finite": None if sums is None else [sums.non_finite_before, sums.non_finite_after],
            "dtype": [None if place is None else place.dtype for place in sides],
            "shape": [None if place is None else list(place.shape) for place in sides],
            "why_not_compared": self.why or None,
        }


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors of one checkpoint by name, and the files that none could be found in."""

    places: dict[str, Place] = field(default_factory=dict[str, Place])
    not_read: tuple[NotRead, ...] = ()

    @classmethod
    def of(cls, side: Side, *, optimizer: bool = False) -> Tensors:
        """Those of its weights, and of its optimizer where that is asked for. Raises OSError."""
        places: dict[str, Place] = {}
        not_read: list[NotRead] = []
        paths = [file.path for file in side.checkpoint.files if _counts(file.path, optimizer)]
        for path in sorted(paths, key=lambda path: (not path.endswith(".safetensors"), path)):
            try:
                found = _found(side.path / path)
            except (NoPlaces, UnreadableMetadata, FileNotFoundError) as error:
                why = "is gone" if isinstance(error, FileNotFoundError) else str(error)
                not_read.append(NotRead(side.path / path, why))
                continue
            if found is None:
                not_read.append(NotRead(side.path / path, "is in a format that is not read here"))
                continue
            prefix = _prefix(path)
            if found and not path.endswith(".safetensors") and all(prefix + name in places for name in found):
                not_read.append(NotRead(side.path / path, "has the names of the safetensors files beside it"))
                continue
            for name, place in found.items():
                known = prefix + name in places
                places[f"{path}:{name}" if known else prefix + name] = place
        return cls(places, tuple(not_read))


def pairs(before: Tensors, after: Tensors) -> list[Pair]:
    """One for each name of either, in the order of their files."""
    names = dict.fromkeys((*before.places, *after.places))
    return [Pair(name, before.places.get(name), after.places.get(name)) for name in names]


def _counts(path: str, optimizer: bool) -> bool:
    home, _, name = path.rpartition("/")
    if path.endswith(_IGNORED):
        return False
    if role_of(path) is Role.WEIGHTS:
        return True
    return optimizer and _of_optimizer(home if name == METADATA else name)


def _found(path: Path) -> Mapping[str, Place] | None:
    """The tensors of a file, or of the directory whose metadata it is; None for a format that is not read."""
    if path.name == METADATA:
        return places_of_ranks(path.parent)
    return places_in(path) if path.name.endswith(_READ) else None


def _of_optimizer(name: str) -> bool:
    return name in OPTIMIZER or fnmatchcase(name, "optimizer_[0-9]*")


def _prefix(path: str) -> str:
    """What stands before the names of a file: its directory, and `optimizer`. The first of ranks' directories are the
    model and its optimizer, as files of these names would be.
    """
    home, _, name = path.rpartition("/")
    if name == METADATA and home.endswith("_0"):
        home, name = "", home
    return (f"{home}/" if home else "") + ("optimizer: " if _of_optimizer(name) else "")
