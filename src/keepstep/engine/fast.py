"""The fast engine: copies the state while training goes on, and writes it in the background at disk speed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch

from keepstep.engine.imprint import Impression, Where, where_of
from keepstep.engine.recorded import Recorded
from keepstep.formats.direct import DirectWriter
from keepstep.formats.layout import FileLayout, UnsupportedTensorError
from keepstep.formats.memory import PAGE, address
from keepstep.formats.safetensors_file import TensorSpec, plan_safetensors
from keepstep.formats.tensors import flat_bytes, storage_bytes, tensor_bytes
from keepstep.formats.torch_planner import TorchPlanner
from keepstep.model import FileEntry
from keepstep.repository import Finish
from keepstep.snapshot.arena import Arena, ArenaTooSmallError
from keepstep.snapshot.device import DeviceCopy
from keepstep.snapshot.piece import Copy
from keepstep.snapshot.staging import Staging

logger = logging.getLogger("keepstep")

Extents = set[tuple[int, int]]
"""First and last address (exclusive) of pieces of memory."""
CHECK = "KEEPSTEP_CHECK_SNAPSHOT"
"""Environment variable: 1 compares every staged byte with a copy that was made at once."""


class LaidOut(NamedTuple):
    """A file to be written: path relative to the checkpoint, layout, and the memory of each of its sources.

    What is live may be on a device, as flat bytes; what is written is in host memory.
    """

    path: str
    layout: FileLayout
    sources: Mapping[str, memoryview | torch.Tensor]


class FastEngine:
    """Writes what the stock writers would have written: from a copy of the state in its arena, or in place.

    `device` brings what is on an accelerator; without it, all is in host memory.
    """

    def __init__(self, arena: Arena, device: DeviceCopy | None = None) -> None:
        self._arena = arena
        self._device = device
        self._planner = TorchPlanner()
        self._writer: DirectWriter | None = None
        self._staging: Staging | None = None
        self._in_place = False

    def snapshot(
        self, recorded: Recorded, root: Path, model: torch.nn.Module, impression: Impression | None = None
    ) -> Finish:
        """Begin to copy what was recorded for the checkpoint at `root`; returns what writes it.

        Until `gate` has returned, nothing may change the state. Where the arena is too small, the gate waits for the
        write instead. What the engine can't write raises UnsupportedTensorError, here or in what is returned. When
        that has returned, the `impression` of the same state is whole.
        """
        copies = _copy_buffers(recorded, {_extent(buffer) for buffer in model.buffers()})
        if impression is not None:
            impression.take_changing(model.buffers(), copies)

        def lay_out() -> list[LaidOut]:
            return [*self._safetensors(recorded, root), *self._torch_files(recorded, root)]

        return self.copy(lay_out, _tensors_of(recorded), impression)

    def copy(
        self,
        lay_out: Callable[[], list[LaidOut]],
        live: list[tuple[str, torch.Tensor]],
        impression: Impression | None = None,
    ) -> Finish:
        """As `snapshot`, of the files that `lay_out` returns, which is asked beside the training; `live` are the
        tensors in them, by name.
        """
        self._check_places(live)
        files: list[LaidOut] = []
        staging = self._staging = Staging(
            partial(self._plan, lay_out, files, impression),
            live,
            check=os.environ.get(CHECK) == "1",
            device=self._device,
        )
        return partial(self._write, staging, files, impression)

    def prepare(self, size: int) -> None:
        """Take memory for a state of about `size` bytes while the first steps run."""
        self._arena.prepare(size + size // 500 + _SLACK)

    @property
    def copying(self) -> bool:
        """True from a snapshot until the gate was passed."""
        return self._staging is not None

    def gate(self) -> None:
        """Return when the live state may change. How the copy went is told by what writes it."""
        staging, self._staging = self._staging, None
        if staging is not None:
            staging.wait()

    def abandon(self) -> None:
        """Forget a snapshot that nothing will write."""
        self._staging = None

    def close(self) -> None:
        """End the I/O threads; the next save begins new ones."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _plan(
        self, lay_out: Callable[[], list[LaidOut]], files: list[LaidOut], impression: Impression | None
    ) -> list[Copy] | None:
        """Fill `files` with what is to be written; what has to be copied before, None where there is no room."""
        live = lay_out()
        if impression is not None:
            impression.take(_places(live))
        images = self._reserve(live)
        if images is None:
            files += live
            return None
        pieces: list[Copy] = []
        files += [_staged(file, image, pieces) for file, image in zip(live, images, strict=True)]
        return pieces

    def _reserve(self, files: list[LaidOut]) -> list[memoryview] | None:
        """Memory for the image of each file, on page boundaries; None where the arena may not take that much."""
        sizes = [-(-file.layout.size // PAGE) * PAGE for file in files]
        if not self._in_place:
            try:
                memory = self._arena.reserve(sum(sizes))
                return [memory[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
            except ArenaTooSmallError as error:
                if self._device is not None:
                    raise UnsupportedTensorError(
                        f"{error}; what is on {self._device.device} has to be copied"
                    ) from error
                text = "%s: saves are written from the live state, and the next optimizer step waits for the disk"
                logger.warning(text, error)
                self._in_place = True
        return None

    def _write(
        self, staging: Staging, files: list[LaidOut], impression: Impression | None, directory: Path
    ) -> dict[str, FileEntry]:
        staging.finish()
        entries: dict[str, FileEntry] = {}
        with staging.writing():
            if self._writer is None:
                self._writer = DirectWriter()
            for path, layout, sources in files:
                target, wanted = directory / path, impression is not None
                written = self._writer.write(target, layout, _in_host(sources), digest_sources=wanted)
                entries[path] = FileEntry.of(path, written.size, written.digest, written.chunk_digests)
                if impression is not None:
                    impression.fill(path, written.sources)
        return entries

    def _safetensors(self, recorded: Recorded, root: Path) -> list[LaidOut]:
        files: list[LaidOut] = []
        for path, (tensors, metadata) in recorded.safetensors.items():
            layout = plan_safetensors({name: TensorSpec.of(t) for name, t in tensors.items()}, metadata)
            sources = {name: self.source(name, tensors[name].detach()) for name in layout.offsets}
            files.append(LaidOut(path.relative_to(root).as_posix(), layout, sources))
        return files

    def _torch_files(self, recorded: Recorded, root: Path) -> list[LaidOut]:
        files: list[LaidOut] = []
        for path, value in recorded.torch.items():
            plan = self._planner.plan(value)
            sources = {name: self.source(name, storage) for name, storage in plan.storages.items()}
            files.append(LaidOut(path.relative_to(root).as_posix(), plan.layout, sources))
        return files

    def source(self, name: str, live: torch.Tensor | torch.UntypedStorage) -> memoryview | torch.Tensor:
        """Live bytes, no copy. Raises UnsupportedTensorError."""
        try:
            if self._device is not None and live.device.type == self._device.device.type:
                return flat_bytes(live)
            return tensor_bytes(live) if isinstance(live, torch.Tensor) else storage_bytes(live)
        except (ValueError, TypeError) as error:
            raise UnsupportedTensorError(f"{name}: {error}") from error

    def _check_places(self, live: list[tuple[str, torch.Tensor]]) -> None:
        """Raises UnsupportedTensorError for a tensor that nothing here can copy."""
        known = {"cpu"} if self._device is None else {"cpu", self._device.device.type}
        for name, tensor in live:
            if tensor.device.type not in known or tensor.layout != torch.strided:
                raise UnsupportedTensorError(f"{name} is a tensor of {tensor.layout} on {tensor.device}")


_SLACK = 2**20
"""Bytes of headers, and of a pickle, beyond an estimate that counts tensors."""


def _staged(file: LaidOut, image: memoryview, pieces: list[Copy]) -> LaidOut:
    """The file with places in its image as sources; what has to be copied there is added to `pieces`."""
    targets: dict[str, memoryview] = {}
    for name, offset in file.layout.offsets.items():
        source = file.sources[name]
        targets[name] = image[offset : offset + source.nbytes]
        pieces.append(Copy(f"{file.path}: {name}", source, targets[name]))
    return LaidOut(file.path, file.layout, targets)


def _places(files: list[LaidOut]) -> dict[Where, tuple[str, str]]:
    """File and name there of everything that is written as it lies in memory."""
    return {
        (source.data_ptr() if isinstance(source, torch.Tensor) else address(source), source.nbytes): (file.path, name)
        for file in files
        for name, source in file.sources.items()
    }


def _in_host(sources: Mapping[str, memoryview | torch.Tensor]) -> dict[str, memoryview]:
    return {name: source for name, source in sources.items() if isinstance(source, memoryview)}


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """First and last address (exclusive) of a tensor's storage."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def _copy_buffers(recorded: Recorded, buffers: Extents) -> dict[Where, torch.Tensor]:
    """Put a copy in the place of every tensor that lies in a buffer: a forward pass may change those.

    Returns the copies, by where what was copied lies.
    """
    copies: dict[Where, torch.Tensor] = {}
    for path, (tensors, metadata) in recorded.safetensors.items():
        kept = {name: tensor.clone() if _extent(tensor) in buffers else tensor for name, tensor in tensors.items()}
        copies |= {where: kept[n] for n, t in tensors.items() if kept[n] is not t and (where := where_of(t))}
        recorded.safetensors[path] = kept, metadata
    return copies


def _tensors_of(recorded: Recorded) -> list[tuple[str, torch.Tensor]]:
    """Live tensors by name."""
    found = [(name, t) for tensors, _ in recorded.safetensors.values() for name, t in tensors.items()]
    for value in recorded.torch.values():
        found += _tensors_in(value, "optimizer state")
    return found


def _tensors_in(value: Any, name: str) -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        return [(name, value)]
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _tensors_in(item, f"{name}.{key}")]
    if isinstance(value, (list, tuple)):
        return [found for key, item in enumerate(value) for found in _tensors_in(item, f"{name}.{key}")]
    return []
