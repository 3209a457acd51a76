"""What writers call their checkpoints and the files in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_[0-9]*")
SCHEDULER = "scheduler.pt"
RANDOM = "rng_state*.pth"
WHOLE_WEIGHTS = (
    *("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin"),
    *("pytorch_model_fsdp*", "model_[0-9]*.safetensors", "pytorch_model_[0-9]*.bin"),
)
SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.(safetensors|bin)")


class Layout(StrEnum):
    """Whose way of laying a checkpoint out it is: which loader goes on from it."""

    TRAINER = "transformers' Trainer"
    FSDP = "transformers' Trainer, with the FSDP settings that wrote it"
    DEEPSPEED = "transformers' Trainer with DeepSpeed"


def layout_of(names: Iterable[str]) -> Layout:
    """The layout of a checkpoint of a Trainer, by the paths of its files."""
    tops = {name.partition("/")[0] for name in names}
    if any(fnmatchcase(name, "global_step*") for name in tops):
        return Layout.DEEPSPEED
    if any(fnmatchcase(name, "pytorch_model_fsdp*") or fnmatchcase(name, "optimizer_[0-9]*") for name in tops):
        return Layout.FSDP
    return Layout.TRAINER


@dataclass(frozen=True, slots=True)
class Other:
    """A checkpoint that is none of a Trainer's: who writes such ones, and the step in its name where one is."""

    writer: str
    step: int | None


_OTHERS = (
    (re.compile(r"epoch=\d+.*step=(\d+).*\.ckpt|last.*\.ckpt|.*\.ckpt"), "Lightning"),
    (re.compile(r"checkpoint_(\d+)"), "Accelerate (save_state)"),
)


def is_other(entry: os.DirEntry[str]) -> bool:
    """True for what another writer than a Trainer calls a checkpoint, and is of the kind that it makes."""
    name = entry.name
    if name.endswith(".ckpt"):
        return not entry.is_symlink()  # Lightning's is a file; of a sharded strategy it is a directory
    return name.startswith("checkpoint_") and other_layout(name) is not None and entry.is_dir(follow_symlinks=False)


def other_layout(name: str) -> Other | None:
    """Whose checkpoint a file or a directory of that name is, None for what is called otherwise."""
    for pattern, writer in _OTHERS:
        if found := pattern.fullmatch(name):
            return Other(writer, int(found[1]) if found[1] else None)
    return None
