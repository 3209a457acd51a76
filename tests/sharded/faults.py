"""Faults of one rank in one place of a save or of a load: an errno, a full disk, a signal, an exception."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from keepstep.formats.layout import UnsupportedTensorError

PLACES: dict[str, tuple[str, str]] = {
    "state dict": ("torch.distributed.checkpoint.state_dict", "get_model_state_dict"),
    "shards": ("torch.distributed.checkpoint.filesystem", "FileSystemWriter.write_data"),
    "copy": ("keepstep.snapshot.staging", "copy_all"),
    "copies": ("keepstep.formats.sink", "FileSink.write"),
    "plans": ("keepstep.engine.shard_plans", "ShardPlans.fit"),
    "file of the imprint": ("keepstep.engine", "Imprint.write"),
    "metadata": ("torch.distributed.checkpoint.filesystem", "FileSystemWriter.finish"),
    "torch.save": ("torch", "save"),
    "safetensors": ("transformers.modeling_utils", "safe_save_file"),
    "makedirs": ("os", "makedirs"),
    "config": ("transformers.configuration_utils", "PreTrainedConfig.save_pretrained"),
    "loop state": ("keepstep.integrations.transformers.resuming.loop_state", "LoopState.write"),
    "record of the loop": ("keepstep.integrations.transformers.resuming.loop", "Loop.capture"),
    "imprint": ("keepstep.integrations.transformers.saving.together", "local_imprint"),
    "sync": ("keepstep.stores", "LocalStore.sync_file"),
    "manifest": ("keepstep.stores", "LocalStore.write"),
    "rename": ("keepstep.stores", "LocalStore.rename"),
    "verification": ("keepstep.integrations.transformers.resuming.sharing", "check_file"),
    "load of shards": ("torch.distributed.checkpoint.filesystem", "FileSystemReader.read_data"),
    "plan of a load": ("torch.distributed.checkpoint.filesystem", "FileSystemReader.read_metadata"),
    "scheduler's load": ("torch", "load"),
    "script": ("deepspeed.runtime.engine", "copyfile"),
}
"""Where a fault may come: module, and the function or method in it. The stock writers alone write `shards`."""
_BEHIND = ("copy", "copies", "plans", "file of the imprint", "sync", "manifest", "rename", "loop state")
"""Places in a save where its stock writers are through."""


@dataclass(frozen=True)
class Fault:
    """At the `nth` call in a place, or from then on where it is `forever`: an errno, "kill", "stop", "raise", "change"
    (a weight is written to) or "refuse" (a tensor is of no kind that is copied); "fill" fills the disk of `ballast`,
    but for `leave` bytes, until the training has ended.

    Only calls while a save is under way count, unless `anywhere`.
    """

    place: str
    what: int | str
    nth: int = 1
    forever: bool = False
    anywhere: bool = False
    ballast: str = ""
    leave: int = 0


@contextmanager
def inject(faults: list[Fault], trainer: Any) -> Iterator[None]:
    """While it lasts, the faults come."""
    with ExitStack() as replaced:
        for fault in faults:
            module, name = PLACES[fault.place]
            owner: Any = import_module(module)
            *path, last = name.split(".")
            for part in path:
                owner = getattr(owner, part)
            original = getattr(owner, last)
            faulty = _faulty(fault, original, trainer)
            replaced.enter_context(patch.object(owner, last, faulty))
            if not path:
                for other in list(sys.modules.values()):
                    if getattr(other, last, None) is original and other is not owner:
                        replaced.enter_context(patch.object(other, last, faulty))
        try:
            yield
        finally:
            for fault in faults:
                if fault.ballast:
                    Path(fault.ballast).unlink(missing_ok=True)


def _faulty(fault: Fault, original: Callable[..., Any], trainer: Any) -> Callable[..., Any]:
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if fault.anywhere or fault.place in _BEHIND or trainer._keepstep.saves.staging is not None:
            calls += 1
            if calls == fault.nth or (fault.forever and calls >= fault.nth):
                strike(fault, trainer)
        return original(*args, **kwargs)

    return call


def strike(fault: Fault, trainer: Any) -> None:
    """Let it happen, in this process."""
    what = fault.what
    if what == "change":
        with torch.no_grad():
            next(iter(trainer.model.parameters())).mul_(1)
    elif what == "fill":
        state = os.statvfs(Path(fault.ballast).parent)
        Path(fault.ballast).write_bytes(bytes(max(state.f_bavail * state.f_frsize - fault.leave, 0)))
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "refuse":
        raise UnsupportedTensorError("a tensor of a new kind")
    elif what == "raise":
        raise ValueError("somebody's own code failed")
    else:
        raise OSError(what, os.strerror(int(what)))
