"""The fast engine: copies the state while training goes on, and writes it in the background at disk speed."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from holdfast.errors import SettingsError
from holdfast.formats.direct import DirectWriter
from holdfast.formats.layout import FileLayout, UnsupportedTensorError
from holdfast.formats.memory import PAGE, address, storage_bytes, tensor_bytes
from holdfast.formats.safetensors_file import TensorSpec, plan_safetensors
from holdfast.formats.torch_planner import TorchPlanner
from holdfast.inflight import Finish
from holdfast.integrations.transformers.recording import Recorded
from holdfast.model import FileEntry
from holdfast.snapshot.arena import Arena
from holdfast.snapshot.staging import Copy, Snapshot, Staging

T = TypeVar("T")
CHECK = "HOLDFAST_CHECK_SNAPSHOT"
"""Environment variable: 1 compares every staged byte with a copy that was made at once."""


class _File(NamedTuple):
    """A file to be written: path relative to the checkpoint, layout, and live memory of each source."""

    path: str
    layout: FileLayout
    sources: dict[str, memoryview]


class FastEngine:
    """Writes what the stock writers would have written, from a copy of the state in its arena."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._planner = TorchPlanner()
        self._writer: DirectWriter | None = None
        self._staging: Staging | None = None

    def snapshot(self, recorded: Recorded, root: Path, model: torch.nn.Module) -> Finish:
        """Begin to copy what was recorded for the checkpoint at `root`; returns what writes it.

        Until `gate` has returned, nothing may change the state. Raises UnsupportedTensorError or
        ArenaTooSmallError, with nothing begun: the stock writers can do it.
        """
        files = [*self._safetensors(recorded, root), *self._torch_files(recorded, root)]
        starts, size = _places(files)
        memory = self._arena.reserve(size)
        moving = {_extent(buffer) for buffer in model.buffers()}
        snapshot = Snapshot(watched=_watched(recorded, moving))
        staged: list[_File] = []
        for file, start in zip(files, starts, strict=True):
            targets: dict[str, memoryview] = {}
            for name, offset in file.layout.offsets.items():
                source = file.sources[name]
                targets[name] = memory[start + offset : start + offset + source.nbytes]
                piece = Copy(f"{file.path}: {name}", source, targets[name])
                (snapshot.at_once if _in_buffers(source, moving) else snapshot.later).append(piece)
            staged.append(_File(file.path, file.layout, targets))
        staging = self._staging = Staging(snapshot, check=os.environ.get(CHECK) == "1")
        return partial(self._write, staging, staged)

    def gate(self) -> None:
        """Return when the live state may change. Raises StateChangedError."""
        staging, self._staging = self._staging, None
        if staging is not None:
            staging.wait()

    def close(self) -> None:
        """End the I/O threads; the next save begins new ones."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, staging: Staging, files: list[_File], directory: Path) -> dict[str, FileEntry]:
        staging.wait()
        if self._writer is None:
            self._writer = DirectWriter()
        written: dict[str, FileEntry] = {}
        for file in files:
            done = self._writer.write(directory / file.path, file.layout, file.sources)
            written[file.path] = FileEntry(file.path, done.size, done.digest)
        return written

    def _safetensors(self, recorded: Recorded, root: Path) -> list[_File]:
        files: list[_File] = []
        for path, (tensors, metadata) in recorded.safetensors.items():
            layout = plan_safetensors({name: TensorSpec.of(t) for name, t in tensors.items()}, metadata)
            sources = {name: _live_bytes(name, tensor_bytes, tensors[name].detach()) for name in layout.offsets}
            files.append(_File(path.relative_to(root).as_posix(), layout, sources))
        return files

    def _torch_files(self, recorded: Recorded, root: Path) -> list[_File]:
        files: list[_File] = []
        for path, value in recorded.torch.items():
            plan = self._planner.plan(value)
            sources = {name: _live_bytes(name, storage_bytes, storage) for name, storage in plan.storages.items()}
            files.append(_File(path.relative_to(root).as_posix(), plan.layout, sources))
        return files


def why_not_fast(trainer: Any) -> str:
    """Why the fast engine can't serve this trainer, empty when it can."""
    args = trainer.args
    if args.device.type != "cpu":
        return f"its tensors are on {args.device.type}"
    if getattr(trainer, "is_deepspeed_enabled", False) or getattr(trainer, "is_fsdp_enabled", False):
        return "DeepSpeed and FSDP write their own files"
    if args.push_to_hub:
        return "push_to_hub uploads each checkpoint as soon as it is saved"
    return ""


def parse_arena(size: str | None) -> int | None:
    """Bytes of a size with a unit such as 16GB or 512MiB; None stays None. Raises SettingsError."""
    if size is None:
        return None
    number = size.rstrip("BMGTKiktmgb ")
    unit = size[len(number) :].strip()
    try:
        return int(float(number) * _UNITS[unit])
    except (ValueError, KeyError):
        hint = f"Give a number and one of {', '.join(_UNITS)}: arena='16GB'."
        raise SettingsError(f"arena is {size!r}, which is no size", hint=hint) from None


_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def _places(files: list[_File]) -> tuple[list[int], int]:
    """Where each file's image begins in the arena, on page boundaries, and the size of all."""
    starts: list[int] = []
    size = 0
    for file in files:
        starts.append(size)
        size += -(-file.layout.size // PAGE) * PAGE
    return starts, size


def _live_bytes(name: str, read: Callable[[T], memoryview], live: T) -> memoryview:
    try:
        return read(live)
    except (ValueError, TypeError) as error:
        raise UnsupportedTensorError(f"{name}: {error}") from error


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """First and last address (exclusive) of a tensor's storage."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def _in_buffers(source: memoryview, buffers: set[tuple[int, int]]) -> bool:
    first = address(source)
    return any(begin <= first < end for begin, end in buffers)


def _watched(recorded: Recorded, moving: set[tuple[int, int]]) -> list[tuple[str, torch.Tensor]]:
    """Live tensors by name that only the optimizer may change."""
    found = [(name, t) for tensors, _ in recorded.safetensors.values() for name, t in tensors.items()]
    for value in recorded.torch.values():
        found += _tensors_in(value, "optimizer state")
    return [(name, tensor) for name, tensor in found if _extent(tensor) not in moving]


def _tensors_in(value: Any, name: str) -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        return [(name, value)]
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _tensors_in(item, f"{name}.{key}")]
    if isinstance(value, (list, tuple)):
        return [found for key, item in enumerate(value) for found in _tensors_in(item, f"{name}.{key}")]
    return []
