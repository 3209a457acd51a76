"""Bytes of one checkpoint: weights, optimizer, and everything else."""

from __future__ import annotations

from dataclasses import dataclass

from keepstep.operations.planning.files import torch_bytes, weights_bytes
from keepstep.operations.planning.optimizers import Optimizer, state_tensors
from keepstep.operations.planning.tensors import Inventory

RNG_STATE = 14_700
"""Bytes of one process' random states: torch's and numpy's Mersenne Twisters, 2.5 and 5 kB, and Python's."""
TRAINER_FILES = 40_000
"""Bytes of scheduler, training arguments, config, trainer state and manifest, of transformers 5 and keepstep."""
ADAPTER_FILES = 5_300
"""Bytes of the model card that PEFT adds, less the model's config that it leaves out."""
LOG_ENTRY = 200
"""Bytes of one entry of the loss history in trainer_state.json."""
LOGGING_STEPS = 10
"""Steps between two entries, TRL's default."""


@dataclass(frozen=True, slots=True)
class CheckpointSize:
    """Bytes of one checkpoint; `optimizer` and most of `other` are 0 bytes for weights alone."""

    weights: int
    optimizer: int
    other: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.optimizer + self.other

    @property
    def thinned(self) -> int:
        """What is left when it is thinned, in bytes; some kB of it are random states, which go too."""
        return self.weights + self.other


def measure(
    inventory: Inventory,
    optimizer: Optimizer,
    *,
    master_weights: bool = False,
    world_size: int = 1,
    steps: int = 0,
    weights_only: bool = False,
) -> CheckpointSize:
    """The size of a checkpoint that has seen `steps` steps.

    Sharding does not change the sum; each process adds its random state. `weights_only` leaves out what a resume needs.
    """
    weights = weights_bytes(inventory.saved)
    other = TRAINER_FILES + inventory.other_bytes + LOG_ENTRY * (steps // LOGGING_STEPS)
    other += ADAPTER_FILES if inventory.adapter else 0
    if weights_only:
        return CheckpointSize(weights, 0, other)
    state = state_tensors(optimizer, inventory.trained, master_weights=master_weights)
    stored = torch_bytes((tensor.nbytes for tensor in state), len(inventory.trained))
    return CheckpointSize(weights, stored, other + RNG_STATE * world_size)
