"""What each rank of a DeepSpeed training writes: partitions of flat fp32 groups, and the weights beside them.

The files are those of DeepSpeed 0.19 (`runtime/engine.py`, `runtime/zero/stage_1_and_2.py`, `stage3.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from keepstep.operations.planning.files import torch_bytes
from keepstep.operations.planning.optimizers import Optimizer
from keepstep.operations.planning.rank_bytes import RankBytes, Sharing, grouped
from keepstep.operations.planning.sizes import RNG_STATE, CheckpointSize
from keepstep.operations.planning.tensors import Inventory, Tensor

_EMPTY = Tensor("", (0,), "fp32")
ALIGNED = 2
"""Stage 2 pads a group to so many values for each rank (`nccl_start_alignment_factor`)."""
SETTINGS, NAMED, SHAPED = 620, 68, 208
"""Bytes of a file of DeepSpeed beside its tensors: its settings; for each parameter its name and its place; in stage 3
what the model's file says of each, which has no values.
"""
SCRIPTS = 41_100
"""Bytes of `latest`, `zero_to_fp32.py` and transformers' `zero_to_torch.py`."""


def of_zero(
    inventory: Inventory, optimizer: Optimizer, whole: CheckpointSize, sharing: Sharing
) -> tuple[RankBytes, ...]:
    """What each rank writes, given what one process would (`whole`).

    In stage 2 the weights are whole, in DeepSpeed's file and once more in the model's, both by rank 0. In stage 3 they
    are in the fp32 partitions alone, as long as DeepSpeed does not gather them; an adapter's have their own file. The
    optimizer steps one flat partition
    of each group of parameters, in fp32 whatever the model is trained in.
    """
    full = bool(whole.optimizer)
    partitions = _partitions(inventory.trained, sharing) if full else []
    flat = [tensor for group in partitions for tensor in (group, *optimizer.state_of(group))]
    names = len(inventory.trained)
    states = _file(flat, names) + NAMED * names if flat else 0
    shapes = _file([_EMPTY] * names, names) + SHAPED * names if full else 0
    module = _file(inventory.saved, len(inventory.saved)) if full else 0
    random = RNG_STATE if full else 0
    sizes: list[CheckpointSize] = []
    for rank in range(sharing.ranks):
        leads = rank == 0
        other = whole.other - random * (sharing.ranks - 1) + SCRIPTS * full if leads else random
        if sharing.by == "zero-3":
            weights = shapes + whole.weights * (leads and inventory.adapter)
        else:
            weights = (module + whole.weights) * leads
        sizes.append(CheckpointSize(weights, states, other))
    return grouped(sizes)


def _partitions(trained: Sequence[Tensor], sharing: Sharing) -> list[Tensor]:
    """One rank's part of each group: the Trainer has two, of what weight decay is for, and of biases and norms."""
    groups = [[t for t in trained if len(t.shape) > 1], [t for t in trained if len(t.shape) <= 1]]
    return [Tensor("", (_part(group, sharing),), "fp32") for group in groups if group]


def _part(group: Sequence[Tensor], sharing: Sharing) -> int:
    """Values of a group that one rank has: stage 3 cuts each parameter, stage 2 the group as a whole."""
    if sharing.by == "zero-3":
        return sum(math.ceil(tensor.numel / sharing.shards) for tensor in group)
    values = sum(tensor.numel for tensor in group)
    return math.ceil(values / (ALIGNED * sharing.shards)) * ALIGNED


def _file(tensors: Sequence[Tensor], names: int) -> int:
    return torch_bytes((tensor.nbytes for tensor in tensors), names, stem="archive") + SETTINGS
