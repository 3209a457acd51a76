"""What each rank of an FSDP training writes: its rows of every tensor, as torch's distributed checkpoints hold them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from keepstep.operations.planning.optimizers import Optimizer, state_tensors
from keepstep.operations.planning.sizes import RNG_STATE, CheckpointSize
from keepstep.operations.planning.tensors import Inventory, Tensor

ITEM = 1_570
"""Bytes that a chunk takes beside its values: each is a file of `torch.save` in its rank's file (1,545 to 1,577)."""
CHUNK, LETTER = 140, 7
"""Bytes of `.metadata` for each chunk, and for each letter of a tensor's name."""


@dataclass(frozen=True, slots=True)
class RankBytes:
    """Bytes that the ranks from `first` to `last` write, each of them."""

    first: int
    last: int
    weights: int
    optimizer: int
    other: int

    @property
    def total(self) -> int:
        """All that one of them writes, in bytes."""
        return self.weights + self.optimizer + self.other

    @property
    def count(self) -> int:
        return self.last - self.first + 1


def of_ranks(
    inventory: Inventory, optimizer: Optimizer, whole: CheckpointSize, ranks: int, *, master_weights: bool = False
) -> tuple[RankBytes, ...]:
    """What each of so many ranks writes, given what one process would (`whole`); neighbours of equal sizes are one.

    Tied weights are written under each name. Scalars go to the rank that has least to write, here the last. Rank 0
    writes the metadata, and everything that is not sharded.
    """
    saved = (*inventory.saved, *inventory.tied)
    state = state_tensors(optimizer, inventory.trained, master_weights=master_weights) if whole.optimizer else []
    letters = sum(len(tensor.name) for tensor in inventory.trained)
    weights = _by_rank(saved, ranks, sum(len(tensor.name) for tensor in saved))
    states = _by_rank(state, ranks, letters * len(state) // max(len(inventory.trained), 1))
    random = RNG_STATE if whole.optimizer else 0
    found: list[RankBytes] = []
    for rank in range(ranks):
        other = random if rank else whole.other - random * (ranks - 1)
        one = RankBytes(rank, rank, weights[rank], states[rank], other)
        if found and replace(found[-1], first=rank, last=rank) == one:
            found[-1] = replace(found[-1], last=rank)
        else:
            found.append(one)
    return tuple(found)


def in_all(ranks: Sequence[RankBytes]) -> CheckpointSize:
    """The checkpoint that they write together."""
    weights, optimizer, other = (
        sum(getattr(one, part) * one.count for one in ranks) for part in ("weights", "optimizer", "other")
    )
    return CheckpointSize(weights, optimizer, other)


def _by_rank(tensors: Sequence[Tensor], ranks: int, letters: int) -> list[int]:
    """Bytes of each rank; `letters` are those of the names in the metadata, which rank 0 writes."""
    found, chunks = [0] * ranks, 0
    for tensor in tensors:
        for rank, nbytes in _chunks(tensor, ranks):
            found[rank] += nbytes + ITEM
            chunks += 1
    found[0] += CHUNK * chunks + LETTER * letters
    return found


def _chunks(tensor: Tensor, ranks: int) -> Iterator[tuple[int, int]]:
    """Ranks and the bytes that each has of a tensor: rows, as many for each as `torch.chunk` gives; the last ones may
    have none.
    """
    if not tensor.shape:
        yield ranks - 1, tensor.nbytes
        return
    rows = math.ceil(tensor.shape[0] / ranks)
    row = tensor.nbytes // max(tensor.shape[0], 1)
    for rank in range(ranks):
        own = min(rows, tensor.shape[0] - rank * rows)
        if own <= 0:
            return
        yield rank, own * row
