"""Before anything is loaded: can the processes of now read what those of then have written?"""

from __future__ import annotations

from typing import Any

from keepstep.errors import ResumeRefused
from keepstep.integrations.transformers.setup.sharding import Division, division_of
from keepstep.run import ResumePoint


def refuse_divided(point: ResumePoint, trainer: Any) -> None:
    """Raises ResumeRefused, naming the ways out, where the checkpoint is divided as no loader of now reads it."""
    division = division_of(point.path)
    by_fsdp = getattr(trainer, "is_fsdp_enabled", False)
    if division is not Division.WHOLE and not by_fsdp:
        raise ResumeRefused(
            f"{point.path} was saved by FSDP and holds {division}; this training does not use FSDP, and its loaders "
            "read neither those weights nor that state of the optimizer",
            hint="Resume with FSDP, on any number of processes (one: torchrun --nproc_per_node 1, with fsdp=True in "
            "the arguments); or start a new run from its weights (keepstep export).",
        )
    if division is Division.WHOLE and by_fsdp:
        raise ResumeRefused(
            f"{point.path} holds {division}, without FSDP; FSDP's loaders don't read its state of the optimizer",
            hint="Resume without FSDP (DDP, or one process); or start a new run with FSDP from its weights.",
        )
