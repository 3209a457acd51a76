"""How the processes of a training share its state, and what each of them writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from keepstep.operations.planning.sizes import CheckpointSize


@dataclass(frozen=True, slots=True)
class Sharing:
    """`shards` ranks share the state, by FSDP or in DeepSpeed's stages; FSDP may have `replicas` of all of them."""

    by: Literal["fsdp", "zero-2", "zero-3"]
    shards: int
    replicas: int = 1

    @property
    def ranks(self) -> int:
        """All processes."""
        return self.shards * self.replicas


@dataclass(frozen=True, slots=True)
class RankBytes(CheckpointSize):
    """Bytes that the ranks from `first` to `last` write, each of them."""

    first: int = 0
    last: int = 0

    @property
    def count(self) -> int:
        """How many ranks these are."""
        return self.last - self.first + 1


def grouped(sizes: Iterable[CheckpointSize]) -> tuple[RankBytes, ...]:
    """What each rank writes, in their order; neighbours of equal sizes are one."""
    found: list[RankBytes] = []
    for rank, one in enumerate(sizes):
        mine = RankBytes(one.weights, one.optimizer, one.other, rank, rank)
        if found and replace(found[-1], first=rank, last=rank) == mine:
            found[-1] = replace(found[-1], last=rank)
        else:
            found.append(mine)
    return tuple(found)


def in_all(ranks: Sequence[RankBytes]) -> CheckpointSize:
    """The checkpoint that they write together."""
    weights, optimizer, other = (
        sum(getattr(one, part) * one.count for one in ranks) for part in ("weights", "optimizer", "other")
    )
    return CheckpointSize(weights, optimizer, other)
