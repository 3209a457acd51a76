"""Calls of `torch.distributed.checkpoint.save`, recorded: nothing is planned, sent or written while they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_saver import save as stock_save
from torch.distributed.checkpoint.stateful import Stateful

from keepstep.engine.places import standing_in

SAVE = (("torch.distributed.checkpoint", "save"), ("torch.distributed.checkpoint.state_dict_saver", "save"))
"""Where stock writers look up `torch.distributed.checkpoint.save`: module, and name there."""


class DcpSave(NamedTuple):
    """One recorded call: the directory, and the state that was to be saved there; its tensors are live."""

    path: Path
    state: Mapping[str, Any]

    def moved(self, old: Path, new: Path) -> DcpSave:
        """The same save where what lay below one directory lies below another."""
        return DcpSave(new / self.path.relative_to(old), self.state)

    def write(self) -> None:
        """Save as it was asked for; all ranks do so at once."""
        stock_save(dict(self.state), storage_writer=FileSystemWriter(self.path), planner=DefaultSavePlanner())


@contextmanager
def recording_dcp(directory: Path) -> Iterator[list[DcpSave]]:
    """While it lasts, calls that would save below a directory in the usual way are recorded.

    What goes anywhere else, by a planner or a writer of somebody's own, or by a part of the ranks, is saved as ever.
    """
    saves: list[DcpSave] = []

    def save(*arguments: Any, **named: Any) -> Metadata:
        found = _recordable(stock_save, arguments, named, directory)
        if found is None:
            return stock_save(*arguments, **named)
        saves.append(found)
        return Metadata({})

    with standing_in(SAVE, save):
        yield saves


def _recordable(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any], directory: Path
) -> DcpSave | None:
    """The save that a call asks for; None where it is not the usual one, or goes elsewhere."""
    try:
        bound = inspect.signature(function).bind(*arguments, **named)
    except TypeError:
        return None
    given = dict(bound.arguments)
    state, writer = given.pop("state_dict", None), given.pop("storage_writer", None)
    planner = given.pop("planner", None)
    unasked = given.pop("use_collectives", True) and not any(value for value in given.values())
    if not (unasked and isinstance(state, Mapping) and _is_usual_writer(writer) and _is_usual_planner(planner)):
        return None
    path = Path(writer.path)
    if not path.is_relative_to(directory):
        return None
    return DcpSave(path, {key: _plain(value) for key, value in state.items()})


def _plain(value: Any) -> Any:
    return value.state_dict() if isinstance(value, Stateful) else value


_USUAL_WRITER = {"single_file_per_rank": True, "thread_count": 1, "sync_files": True, "overwrite": True}
_USUAL_PLANNER = {
    "flatten_state_dict": True,
    "flatten_sharded_tensors": True,
    "dedup_save_to_lowest_rank": False,
    "_enable_plan_caching": False,
}


def _is_usual_writer(writer: Any) -> bool:
    """True for a writer with the defaults of torch: one file of `torch.save` for each rank."""
    if type(writer) is not FileSystemWriter or type(writer.fs) is not FileSystem or writer.transforms.extensions:
        return False
    form = getattr(writer, "serialization_format", None)
    return getattr(form, "name", "TORCH_SAVE") == "TORCH_SAVE" and _has(writer, _USUAL_WRITER)


def _is_usual_planner(planner: Any) -> bool:
    return planner is None or (type(planner) is DefaultSavePlanner and _has(planner, _USUAL_PLANNER))


def _has(thing: Any, values: Mapping[str, Any]) -> bool:
    return all(getattr(thing, name, value) == value for name, value in values.items())
