"""The state of a training loop that stock checkpoints leave out, and its file: `keepstep_state.json` of rank 0."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from keepstep.errors import CheckpointCorrupt
from keepstep.snapshot.random_state import RandomState

STATE_NAME = "keepstep_state.json"
FORMAT_VERSION = 3
Position = Literal["step_end", "epoch_end"]


@dataclass(frozen=True, slots=True)
class Ahead:
    """What a data loader had read beyond the batches that it had handed over in an epoch.

    `batches` read ahead, `handed_over` before; where reading them drew random numbers, `random` is the state that they
    were drawn from, and `own` that of the generators of the user's own.
    """

    batches: int
    handed_over: int
    random: RandomState | None = None
    own: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a stream a save found the training: after so many `batches` of the pass `epoch`, counted from 0.

    `last` is a digest of the last of these; `state` is the stream's own, as it was before batch `state_at`, by which
    `kind` of reader; None where the pass is read again from its beginning. Where reading draws random numbers, `random`
    and `own` are what batch `state_at` was drawn from.
    """

    epoch: int
    batches: int
    last: str
    state_at: int = 0
    state: Any = None
    kind: str = ""
    random: RandomState | None = None
    own: dict[str, Any] | None = None

    def without_state(self) -> Place:
        """The same, to be reached from the beginning of the pass."""
        return replace(self, state_at=0, state=None, random=None, own=None)


@dataclass(frozen=True, slots=True)
class LoopState:
    """Values of a Trainer's loop at the moment of a save.

    `tr_loss` is the loss summed since the last log, `total_loss` the sum that was logged before, both in nats;
    `last_logged_step` and `initial_step` in optimizer steps; `grad_norm` and `learning_rate` of the last step;
    `epoch_start` the random state from which the data order of the running epoch was drawn; `sampler_seed` the
    seed of accelerate's shuffling sampler; `stopped` True when a callback had ended the training at this step;
    `model_trains` False when the model was left in evaluation mode, which decides what TRL logs next;
    `loading_draws` True when fetching a batch drew random numbers, as a collator that masks does;
    `order_start` the state of a generator that the sampler has to itself, from which the running epoch's order was
    drawn, or at an epoch's end the next one's will be; `attributes` what TRL's trainers count and average between two
    logs, and `left_out` the names of those that could not be kept; `optimizer_order` the names of the optimizer's
    parameters, group by group, in the order of their indices. `mid_epoch` is True inside of an epoch, `ahead` what had
    been read ahead there, None where that is not known. `own` has the states of the generators that the trainer's parts
    hold, by path, `own_at_epoch_start` those at the start of the running epoch, both None where none were looked for;
    `own_without_state` names those that have none. `callbacks` has the states of callbacks in their order, each with
    the name of its class. `numbers` are those that change beside tensors in the extra file, by path; `buffered` is True
    where a file of its own has `buffers`: batches that are trained on once more. `in_force` has the
    values of the optimizer's groups by the argument that they come from; `inexact` says in sentences what could
    not be kept. `place` is where the training stands in its data, by samples; None where that has no length. `stream`
    is where a stream was read to, None of other data; `workers` are the random states of the data loader's workers,
    packed, and the number of the `next`; None where they are unknown.
    """

    position: Position
    tr_loss: float
    total_loss: float
    last_logged_step: int
    initial_step: int
    grad_norm: float | None
    learning_rate: float | None
    epoch_start: RandomState | None
    sampler_seed: int | None
    stopped: bool
    model_trains: bool = True
    loading_draws: bool = False
    order_start: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    left_out: list[str] = field(default_factory=list[str])
    optimizer_order: list[list[str]] | None = None
    mid_epoch: bool = True
    ahead: Ahead | None = None
    own: dict[str, Any] | None = None
    own_at_epoch_start: dict[str, Any] | None = None
    own_without_state: list[str] = field(default_factory=list[str])
    callbacks: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    numbers: dict[str, int | float] = field(default_factory=dict[str, Any])
    buffered: bool = False
    buffers: Any = None
    in_force: dict[str, list[Any]] = field(default_factory=dict[str, Any])
    inexact: list[str] = field(default_factory=list[str])
    place: dict[str, Any] | None = None
    stream: Place | None = None
    workers: dict[str, Any] | None = None

    def write(self, directory: Path, rank: int = 0) -> None:
        """Write the file of a rank into a checkpoint directory."""
        values = asdict(replace(self, buffers=None))
        del values["buffers"]
        text = json.dumps({"format": FORMAT_VERSION, **values}, indent=1, sort_keys=True)
        if self.buffers is not None:
            torch.save(self.buffers, directory / state_name(rank, ".pt"))
        (directory / state_name(rank)).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path, rank: int = 0) -> LoopState | None:
        """The loop state of a rank, or that of rank 0 where fewer trained; None where stock tools wrote it.

        Raises CheckpointCorrupt.
        """
        path = directory / state_name(rank)
        if not path.exists():
            path = directory / STATE_NAME
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields.pop("format") > FORMAT_VERSION:
                raise ValueError("a newer keepstep wrote it")
            if fields.get("ahead") is not None:
                fields["ahead"] = Ahead(**fields["ahead"])
            if fields.get("stream") is not None:
                fields["stream"] = Place(**fields["stream"])
            return cls(**fields)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointCorrupt(f"{path} can't be used: {error}") from error


def state_name(rank: int, suffix: str = ".json") -> str:
    """The file of a rank's loop state: `keepstep_state.json` of rank 0, `keepstep_state_1.json` of rank 1.

    With the suffix `.pt`, that of its buffers.
    """
    return f"keepstep_state{suffix}" if rank == 0 else f"keepstep_state_{rank}{suffix}"


def missing_for_resume(directory: Path, *, weights: bool = True) -> list[str]:
    """What a resume by stock loaders needs and the directory lacks, in words; empty when it is complete.

    Without `weights` they may be in files of any name.
    """
    names = set(os.listdir(directory)) if directory.is_dir() else set[str]()

    def has(*patterns: str) -> bool:
        return any(name == pattern or name.startswith(pattern) for name in names for pattern in patterns)

    needed = {
        "model weights": not weights
        or has("model.safetensors", "adapter_model.", "pytorch_model", "model-0", "global_step")
        or any((directory / name / "adapter_model.safetensors").is_file() for name in names),
        "optimizer.pt": has("optimizer", "global_step"),
        "scheduler.pt": has("scheduler.pt"),
        "rng_state.pth": has("rng_state"),
        "trainer_state.json": has("trainer_state.json"),
    }
    return [what for what, there in needed.items() if not there]
