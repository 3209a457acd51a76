"""Before anything is loaded: can the processes of now read what those of then have written?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from keepstep.errors import ResumeRefused
from keepstep.integrations.transformers.setup.sharding import (
    LOADS_SHARDS,
    ZERO_ROOM,
    Division,
    division_of,
    leaves_state_empty,
)
from keepstep.integrations.transformers.setup.zero import (
    STAGE_DIVIDES_WEIGHTS,
    by_deepspeed,
    loads_universal,
    stage_of,
)
from keepstep.run import ResumePoint

_LATEST, _LATEST_UNIVERSAL = "latest", "latest_universal"
_OPTIMIZER = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_\d+_mp_rank_\d+_optim_states\.pt")
_WEIGHTS = re.compile(r"zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt")


class Zero(NamedTuple):
    """What the names of DeepSpeed's files tell: where they lie, how many processes hold the optimizer's state, and
    whether the weights are divided as well (ZeRO-3).
    """

    room: str
    processes: int
    divides_weights: bool

    @classmethod
    def of(cls, directory: Path) -> Zero:
        """Of the files that a resume would read."""
        latest = directory / _LATEST
        rooms = sorted(path.name for path in directory.glob(ZERO_ROOM))
        room = latest.read_text(encoding="utf-8").strip() if latest.is_file() else rooms[-1]
        names = [path.name for path in (directory / room).glob("*.pt")]
        return cls(room, sum(bool(_OPTIMIZER.fullmatch(name)) for name in names), any(map(_WEIGHTS.fullmatch, names)))

    @property
    def stages(self) -> str:
        """Its stage, in words."""
        if self.divides_weights:
            return f"ZeRO-{STAGE_DIVIDES_WEIGHTS}"
        return "ZeRO-1 or 2" if self.processes else "ZeRO-0"


def refuse_divided(point: ResumePoint, trainer: Any) -> None:
    """Raises ResumeRefused, naming the ways out, where the checkpoint is divided as no loader of now reads it."""
    division = division_of(point.path)
    if by_deepspeed(trainer) or division is Division.ZERO:
        _refuse_zero(point, trainer, division)
        return
    by_fsdp = getattr(trainer, "is_fsdp_enabled", False)
    if division is not Division.WHOLE and not by_fsdp:
        raise ResumeRefused(
            f"{point.path} was saved by FSDP and holds {division}; this training does not use FSDP, and its loaders "
            "read neither those weights nor that state of the optimizer",
            hint="Resume with FSDP, on any number of processes (one: torchrun --nproc_per_node 1, with fsdp=True in "
            "the arguments); or start a new run from its weights (keepstep export).",
        )
    if division is Division.SHARDS and (why := leaves_state_empty()):
        raise ResumeRefused(
            f"{point.path} holds {division}, and this training uses {why}",
            hint=f"Resume with accelerate {LOADS_SHARDS} or newer.",
        )
    if division is Division.WHOLE and by_fsdp:
        raise ResumeRefused(
            f"{point.path} holds {division}, without FSDP; FSDP's loaders don't read its state of the optimizer",
            hint="Resume without FSDP (DDP, or one process); or start a new run with FSDP from its weights.",
        )


def _refuse_zero(point: ResumePoint, trainer: Any, division: Division) -> None:
    if division is not Division.ZERO:
        raise ResumeRefused(
            f"{point.path} holds {division}; DeepSpeed's loader reads nothing but what DeepSpeed has saved",
            hint="Resume without DeepSpeed, as it was saved; or start a new run with DeepSpeed from its weights: "
            "keepstep export.",
        )
    zero = Zero.of(point.path)
    if not by_deepspeed(trainer):
        raise ResumeRefused(
            f"{point.path} was saved by DeepSpeed ({zero.stages}) and holds {division}; this training does not use "
            "DeepSpeed, and its loaders don't read that state of the optimizer",
            hint=f"Resume with DeepSpeed, on {_processes(zero.processes)}; or start a new run from its weights: "
            "keepstep export.",
        )
    if loads_universal(trainer) and (point.path / _LATEST_UNIVERSAL).is_file():
        return
    now, stage = int(trainer.args.world_size), stage_of(trainer)
    if zero.divides_weights != (stage == STAGE_DIVIDES_WEIGHTS) or bool(zero.processes) != bool(stage):
        raise ResumeRefused(
            f"{point.path} was saved with {zero.stages}, and this training uses ZeRO-{stage}: DeepSpeed's loader does "
            "not turn the files of one into those of the other",
            hint=f"Resume with {zero.stages}; {_ways_out(point, zero)}",
        )
    if zero.processes not in (0, now):
        raise ResumeRefused(
            f"{point.path} was saved by {_processes(zero.processes)} with DeepSpeed, and this training runs on "
            f"{_processes(now)}: DeepSpeed gives each process the part of the state that its rank wrote, and no other",
            hint=f"Resume on {_processes(zero.processes)}; {_ways_out(point, zero)}",
        )


def _ways_out(point: ResumePoint, zero: Zero) -> str:
    source = point.path / zero.room
    return (
        f"or convert it for any number (python -m deepspeed.checkpoint.ds_to_universal --input_folder {source} "
        f'--output_folder {source}_universal --inject_missing_state; keepstep reseal; then "checkpoint": '
        '{"load_universal": true} in DeepSpeed\'s config); or start a new run from its weights: keepstep export.'
    )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"
