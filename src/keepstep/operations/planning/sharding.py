"""What each rank of an FSDP training writes: its rows of every tensor, as torch's distributed checkpoints hold them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from keepstep.operations.planning.optimizers import Optimizer, state_tensors
from keepstep.operations.planning.rank_bytes import RankBytes, Sharing, grouped
from keepstep.operations.planning.sizes import RNG_STATE, CheckpointSize
from keepstep.operations.planning.tensors import Inventory, Tensor

ITEM = 1_570
"""Bytes that a chunk takes beside its values: each is a file of `torch.save` in its rank's file (1,545 to 1,577)."""
CHUNK, LETTER = 140, 7
"""Bytes of `.metadata` for each chunk, and for each letter of a tensor's name."""


def of_fsdp(
    inventory: Inventory,
    optimizer: Optimizer,
    whole: CheckpointSize,
    sharing: Sharing,
    *,
    master_weights: bool = False,
) -> tuple[RankBytes, ...]:
    """What each rank writes, given what one process would (`whole`).

    Tied weights are written under each name. Scalars go to the rank that has least to write, here the last. Of replicas
    each writes what the others don't: a chunk is the one's of them that has least to write. Rank 0 writes the metadata,
    and everything that is not sharded.
    """
    saved = (*inventory.saved, *inventory.tied)
    state = state_tensors(optimizer, inventory.trained, master_weights=master_weights) if whole.optimizer else []
    letters = sum(len(tensor.name) for tensor in inventory.trained)
    weights = _by_rank(saved, sharing, sum(len(tensor.name) for tensor in saved))
    states = _by_rank(state, sharing, letters * len(state) // max(len(inventory.trained), 1))
    random = RNG_STATE if whole.optimizer else 0
    lead = whole.other - random * (sharing.ranks - 1)
    return grouped(
        CheckpointSize(weights[rank], states[rank], random if rank else lead) for rank in range(sharing.ranks)
    )


def _by_rank(tensors: Sequence[Tensor], sharing: Sharing, letters: int) -> list[int]:
    """Bytes of each rank; `letters` are those of the names in the metadata, which rank 0 writes."""
    found, chunks = [0] * sharing.ranks, 0
    for tensor in tensors:
        for shard, nbytes in _chunks(tensor, sharing.shards):
            replicas = range(shard, sharing.ranks, sharing.shards) if tensor.shape else (sharing.ranks - 1,)
            found[min(replicas, key=found.__getitem__)] += nbytes + ITEM
            chunks += 1
    found[0] += (CHUNK * chunks + LETTER * letters) * bool(chunks)
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
