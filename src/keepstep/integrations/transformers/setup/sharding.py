"""How the files of a training are divided, by its settings, and by what lies in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import accelerate

_SETTINGS = ("state_dict_type", "state_dict_config", "optim_state_dict_config")
ZERO_ROOM = "global_step*"
FSDP_SHARDS, FSDP_WHOLE = "pytorch_model_fsdp_0", "pytorch_model_fsdp.bin"
LOADS_SHARDS = "1.13"
"""The first accelerate that puts the optimizer's state back from FSDP2's shards."""


class Division(StrEnum):
    """Who wrote what of a checkpoint's state."""

    WHOLE = "the whole state in one process's files"
    SHARDS = "a part of the state from each process (SHARDED_STATE_DICT)"
    ZERO = "a part of the state from each process (DeepSpeed's ZeRO)"
    GATHERED = "the whole state, gathered from FSDP's processes (FULL_STATE_DICT)"


def division_of(directory: Path) -> Division:
    """How a checkpoint is divided, by the names of its files."""
    if (directory / FSDP_SHARDS).is_dir():
        return Division.SHARDS
    if any(directory.glob(ZERO_ROOM)):
        return Division.ZERO
    return Division.GATHERED if (directory / FSDP_WHOLE).is_file() else Division.WHOLE


def writes_shards(trainer: Any) -> bool:
    """True where each process writes a part of the weights, and stock writers leave out what is said of the model."""
    plugin = _plugin(trainer)
    return plugin is not None and "SHARDED" in str(plugin.state_dict_type)


def gathers(trainer: Any) -> bool:
    """True where rank 0 writes the weights that it has gathered from all: twice, in FSDP's file and in the model's."""
    plugin = _plugin(trainer)
    return plugin is not None and "FULL" in str(plugin.state_dict_type)


def leaves_state_empty() -> str:
    """What leaves an optimizer's state as it is in place of loading FSDP2's shards into it; empty where nothing does.

    An accelerate that is too old asks torch's DCP for the entries of the new optimizer's `state_dict`, which has none
    before its first step, and nothing is said of those that the files have.
    """
    installed, first = (re.findall(r"\d+", version)[:2] for version in (accelerate.__version__, LOADS_SHARDS))
    if list(map(int, installed)) >= list(map(int, first)):
        return ""
    return f"accelerate {accelerate.__version__}, which leaves the optimizer's state empty when it loads them"


@contextmanager
def reads_as_written(trainer: Any, directory: Path | None) -> Iterator[None]:
    """While it lasts, stock loaders of FSDP read a checkpoint as it was written, whatever is written from now on."""
    plugin, division = _plugin(trainer), Division.WHOLE if directory is None else division_of(directory)
    before = {name: getattr(plugin, name, None) for name in _SETTINGS}
    wanted = {Division.SHARDS: "SHARDED_STATE_DICT", Division.GATHERED: "FULL_STATE_DICT"}.get(division, "")
    if plugin is None or not wanted or wanted in str(before["state_dict_type"]):
        yield
        return
    plugin.state_dict_config = plugin.optim_state_dict_config = None
    plugin.set_state_dict_type(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(plugin, name, value)


@contextmanager
def left_where_it_is(trainer: Any) -> Iterator[None]:
    """While it lasts, accelerate does not bring the state to host memory first: it is copied there anyway."""
    config: Any = getattr(_plugin(trainer), "state_dict_config", None)
    before = getattr(config, "offload_to_cpu", None)
    if not before:
        yield
        return
    config.offload_to_cpu = False
    try:
        yield
    finally:
        config.offload_to_cpu = before


def _plugin(trainer: Any) -> Any:
    return (
        getattr(trainer.accelerator.state, "fsdp_plugin", None) if getattr(trainer, "is_fsdp_enabled", False) else None
    )
