"""The state of a training loop that stock checkpoints leave out, and its file: `keepstep_state.json` of rank 0."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from keepstep.errors import CheckpointCorrupt
from keepstep.snapshot.random_state import RandomState

STATE_NAME = "keepstep_state.json"
FORMAT_VERSION = 1
Position = Literal["step_end", "epoch_end"]

_COUNTERS = ("_total_train_tokens",)
_METRIC_LISTS = ("_metrics", "_stored_metrics")
"""What TRL's trainers average between two logs: {mode: {name: [values]}}."""


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
    drawn, or at an epoch's end the next one's will be.
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
    counters: dict[str, int] = field(default_factory=dict[str, int])
    metric_lists: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict[str, Any])

    def write(self, directory: Path, rank: int = 0) -> None:
        """Write the file of a rank into a checkpoint directory."""
        text = json.dumps({"format": FORMAT_VERSION, **asdict(self)}, indent=1, sort_keys=True)
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
            return cls(**fields)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointCorrupt(f"{path} can't be used: {error}") from error


def state_name(rank: int) -> str:
    """The file of a rank's loop state: `keepstep_state.json` of rank 0, `keepstep_state_1.json` of rank 1."""
    return STATE_NAME if rank == 0 else f"keepstep_state_{rank}.json"


def capture_trl(trainer: Any) -> tuple[dict[str, int], dict[str, Any]]:
    """Token counters and metric lists of a TRL trainer; empty for a plain one."""
    counters = {name: int(getattr(trainer, name)) for name in _COUNTERS if hasattr(trainer, name)}
    lists = {
        name: {mode: _plain_lists(by_name) for mode, by_name in getattr(trainer, name).items()}
        for name in _METRIC_LISTS
        if isinstance(getattr(trainer, name, None), Mapping)
    }
    return counters, lists


def _plain_lists(by_name: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: [float(v) if isinstance(v, torch.Tensor) else v for v in values] for key, values in by_name.items()}


def restore_trl(trainer: Any, state: LoopState) -> None:
    """Put counters and metric lists back into the trainer's own containers."""
    for name, value in state.counters.items():
        if hasattr(trainer, name):
            setattr(trainer, name, value)
    for name, by_mode in state.metric_lists.items():
        target = getattr(trainer, name, None)
        if isinstance(target, Mapping):
            for mode, by_name in by_mode.items():
                target[mode].clear()
                for key, values in by_name.items():
                    target[mode][key] = list(values)


def missing_for_resume(directory: Path) -> list[str]:
    """What a resume needs and the directory lacks, in words; empty when it is complete."""
    names = set(os.listdir(directory)) if directory.is_dir() else set[str]()

    def has(*patterns: str) -> bool:
        return any(name == pattern or name.startswith(pattern) for name in names for pattern in patterns)

    needed = {
        "model weights": has("model.safetensors", "adapter_model.", "pytorch_model", "model-0", "global_step")
        or any((directory / name / "adapter_model.safetensors").is_file() for name in names),
        "optimizer.pt": has("optimizer", "global_step"),
        "scheduler.pt": has("scheduler.pt"),
        "rng_state.pth": has("rng_state"),
        "trainer_state.json": has("trainer_state.json"),
    }
    return [what for what, there in needed.items() if not there]
