"""A writer for torch's DCP that writes nothing: it lays out what the stock writer would write, byte for byte."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.filesystem import DEFAULT_SUFFIX, FileSystem, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from keepstep.formats.distcp import Form, ShardFile, form_of
from keepstep.formats.layout import FileLayout


class Item(NamedTuple):
    """One item of a rank's file: what DCP calls it, and the form of its tensor, or the length of its pickle."""

    asked: WriteItem
    form: Form | int


class RankFile(NamedTuple):
    """One rank's file of a save: its name, its layout, and the items, whose numbers name the layout's sources."""

    name: str
    layout: FileLayout
    items: tuple[Item, ...]


class PlanningWriter(FileSystemWriter):
    """Given to `torch.distributed.checkpoint.save`, it knows afterwards what belongs on the disk.

    `file` is this rank's; `metadata` the bytes of `.metadata`, on rank 0 alone. `path` is made by nobody.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, sync_files=False)
        self._kept = _Kept()
        self.fs = self._kept
        self.file: RankFile | None = None

    @property
    def metadata(self) -> bytes:
        """What would be in `.metadata`; empty where another rank writes it."""
        return self._kept.data

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Lay the plan's items out. Raises UnsupportedTensorError."""
        name = f"{plan.storage_data.prefix}0{DEFAULT_SUFFIX}"
        shard, items, results = ShardFile(), list[Item](), list[WriteResult]()
        for number, asked in enumerate(_in_order(plan.items)):
            form = form_in_file(planner.resolve_data(asked))
            lay: Any = shard.data if isinstance(form, int) else shard.tensor
            extent = lay(str(number), form)
            items.append(Item(asked, form))
            results.append(WriteResult(asked.index, extent.length, _StorageInfo(name, *extent)))
        self.file = RankFile(name, shard.build(), tuple(items))
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done


def form_in_file(data: torch.Tensor | io.BytesIO) -> Form | int:
    """The form in which the stock writer saves a tensor, or how many bytes a pickle has."""
    if isinstance(data, io.BytesIO):
        return data.getbuffer().nbytes
    tensor = data.detach()
    form = form_of(tensor)
    if not is_cut_out(tensor):
        return form
    # The stock writer saves a clone, whose stride a tensor without bytes has too.
    return form._replace(stride=torch.empty_like(tensor, device="meta").stride())


def is_cut_out(tensor: torch.Tensor) -> bool:
    """True for a tensor that is a part of what lies in its storage."""
    return tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()


def _in_order(items: list[WriteItem]) -> list[WriteItem]:
    """The order in which the stock writer writes: where there is a GPU, small tensors before large ones."""
    pickled = [item for item in items if item.type == WriteItemType.BYTE_IO]
    tensors = [item for item in items if item.type != WriteItemType.BYTE_IO]
    if torch.cuda.is_available():
        tensors.sort(key=_size)
    return [*pickled, *tensors]


def _size(item: WriteItem) -> int:
    assert item.tensor_data is not None
    return item.tensor_data.size.numel() * item.tensor_data.properties.dtype.itemsize


class _Kept(FileSystem):
    """A file system with one file, which is kept in memory."""

    data = b""

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[io.IOBase]:
        stream = io.BytesIO()
        yield stream
        self.data = stream.getvalue()

    def mkdir(self, path: Any) -> None:
        return None

    def exists(self, path: Any) -> bool:
        return False

    def rename(self, path: Any, new_path: Any) -> None:
        return None

    def rm_file(self, path: Any) -> None:
        return None
