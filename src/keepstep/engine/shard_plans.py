"""Plans of one rank's saves through torch's DCP: made by all ranks once, remembered while only values change."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.state_dict_saver import save as stock_save
from torch.distributed.tensor import DTensor

from keepstep.engine.dcp_saves import DcpSave
from keepstep.engine.dcp_writer import PlanningWriter, RankFile, form_in_file, is_cut_out
from keepstep.engine.fast import FastEngine, LaidOut
from keepstep.engine.imprint import Impression, Where, where_of
from keepstep.formats.layout import LayoutBuilder, UnsupportedTensorError
from keepstep.model import FileEntry
from keepstep.repository import Finish

METADATA = ".metadata"
Facts = tuple[object, ...]


class _Remembered(NamedTuple):
    """What a plan was made of, and what came of it: this rank's file, and on rank 0 the bytes of `.metadata`."""

    facts: Facts
    file: RankFile
    metadata: bytes


class _Live(NamedTuple):
    """A save of now: what its plan follows from, its data by number of the item, and the tensors by name."""

    facts: Facts
    planner: DefaultSavePlanner
    data: tuple[torch.Tensor | io.BytesIO, ...] = ()

    def resolved(self, file: RankFile) -> _Live:
        """With the data of the items of a file."""
        with torch.no_grad():
            return self._replace(data=tuple(self.planner.resolve_data(item.asked) for item in file.items))

    def tensors(self, path: str, copies: _Copies) -> list[tuple[str, torch.Tensor]]:
        """What nothing may change for a while. Of a tensor that is divided, itself or its part counts the changes."""
        found: list[tuple[str, torch.Tensor]] = []
        for name, value in self.planner.state_dict.items():
            if isinstance(value, torch.Tensor) and not copies.may_change(_local(value)):
                found += [(f"{path}: {name}", tensor) for tensor in {id(t): t for t in (value, _local(value))}.values()]
        return found


class ShardPlans:
    """The plans of one rank, by the directory that they are for, relative to the checkpoint's."""

    def __init__(self) -> None:
        self._remembered: dict[str, _Remembered] = {}
        self._live: dict[str, _Live] = {}

    def forget(self) -> None:
        """Let the next saves be planned anew."""
        self._remembered, self._live = {}, {}

    def fit(self, saves: Iterable[DcpSave], root: Path) -> bool:
        """True where what is remembered is right for these saves, as far as this rank can tell; it asks no other.

        What is no tensor is pickled now. Raises UnsupportedTensorError.
        """
        self._live = {path: _live_of(save) for path, save in _by_path(saves, root)}
        if self._live.keys() != self._remembered.keys():
            return False
        for path, live in self._live.items():
            known = self._remembered[path]
            if live.facts != known.facts:
                return False
            now = self._live[path] = live.resolved(known.file)
            if any(form_in_file(data) != item.form for data, item in zip(now.data, known.file.items, strict=True)):
                return False
        return True

    def plan(self, saves: Iterable[DcpSave], root: Path) -> None:
        """Plan the saves that `fit` was asked of, with all ranks at once, and remember it.

        Raises what `torch.distributed.checkpoint.save` raises, on every rank.
        """
        self._remembered = {}
        planned: dict[str, _Remembered] = {}
        for path, save in _by_path(saves, root):
            writer, live = PlanningWriter(save.path), self._live[path]
            stock_save(dict(save.state), storage_writer=writer, planner=DefaultSavePlanner())
            assert writer.file is not None
            planned[path] = _Remembered(live.facts, writer.file, writer.metadata)
            self._live[path] = live.resolved(writer.file)
        self._remembered = planned

    def begin(self, engine: FastEngine, model: torch.nn.Module, impression: Impression | None) -> Finish:
        """Begin to copy what was planned, or fits; returns what writes it, as `FastEngine.snapshot` does."""
        lives, self._live = self._live, {}
        copies = _Copies(model)
        files: list[LaidOut] = []
        for path, live in lives.items():
            known = self._remembered[path]
            sources: dict[str, memoryview | torch.Tensor] = {}
            for number, data in enumerate(live.data):
                name = f"{path}: {known.file.items[number].asked.index.fqn}"
                source = data.getbuffer() if isinstance(data, io.BytesIO) else engine.source(name, copies.of(data))
                if source.nbytes:
                    sources[str(number)] = source
            files.append(LaidOut(f"{path}/{known.file.name}", known.file.layout, sources))
            if known.metadata:
                builder = LayoutBuilder()
                builder.literal(known.metadata)
                files.append(LaidOut(f"{path}/{METADATA}", builder.build(), {}))
        if impression is not None:
            impression.take_changing(model.buffers(), copies.made)
        tensors = [found for path, live in lives.items() for found in live.tensors(path, copies)]
        write = engine.copy(lambda: files, tensors, impression)

        def write_in_rooms(directory: Path) -> Mapping[str, FileEntry]:
            for path in lives:
                (directory / path).mkdir(parents=True, exist_ok=True)
            return write(directory)

        return write_in_rooms


class _Copies:
    """Copies in place of tensors that a forward pass may change, and of those that lie in no row of bytes."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._buffers = {buffer.untyped_storage().data_ptr() for buffer in map(_local, model.buffers())}
        self.made: dict[Where, torch.Tensor] = {}

    def may_change(self, tensor: torch.Tensor) -> bool:
        """True for one that lies in a buffer of the model."""
        return tensor.untyped_storage().data_ptr() in self._buffers

    def of(self, data: torch.Tensor) -> torch.Tensor | torch.UntypedStorage:
        """What to write in the place of a tensor: its bytes as they are to lie in the file."""
        tensor = data.detach()
        if self.may_change(tensor) or (is_cut_out(tensor) and not tensor.is_contiguous()):
            copy = tensor.clone()
            if (where := where_of(tensor)) is not None:
                self.made[where] = copy
            tensor = copy
        return tensor if tensor.is_contiguous() else tensor.untyped_storage()


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def _by_path(saves: Iterable[DcpSave], root: Path) -> list[tuple[str, DcpSave]]:
    return [(save.path.relative_to(root).as_posix(), save) for save in saves]


def _live_of(save: DcpSave) -> _Live:
    planner = DefaultSavePlanner()
    planner.set_up_planner(dict(save.state))
    facts = [_facts(name, value) for name, value in planner.state_dict.items()]
    return _Live((*facts, *planner.mappings.items()), planner)


def _facts(name: str, value: Any) -> Facts:
    """What a plan, and `.metadata`, take from an item, but for the values of a tensor."""
    if not isinstance(value, torch.Tensor):
        return (name,)
    if type(value) not in (torch.Tensor, torch.nn.Parameter, DTensor):
        raise UnsupportedTensorError(f"{name} is a {type(value).__name__}")
    whole = (name, type(value), value.dtype, value.shape, value.stride(), value.requires_grad, value.device.type)
    if not isinstance(value, DTensor):
        return whole
    return (*whole, value.device_mesh, value.placements, value._local_tensor.shape)
