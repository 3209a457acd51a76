"""Loads stock files in one pass: read, checked and placed; nothing is parsed or unpickled before its digest held."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.serialization import skip_data

from holdfast.formats.chunks import THREADS, ChunkedFile, OnBytes
from holdfast.formats.digests import CHUNK_BYTES
from holdfast.formats.memory import aligned_buffer, storage_over, tensor_bytes
from holdfast.formats.safetensors_file import LENGTH_BYTES, header_bytes, read_header, stock_dtypes
from holdfast.formats.targets import Target

LOCAL_HEAD = 30


def verify_file(
    path: Path,
    chunk_digests: Sequence[str],
    *,
    size: int | None = None,
    threads: int = THREADS,
    direct: bool | None = None,
    on_bytes: OnBytes | None = None,
) -> None:
    """Check every chunk of a file in bounded memory. Raises ChunkCorrupt, or OSError when it can't be read."""
    with ChunkedFile(path, chunk_digests, size=size, direct=direct) as file:
        file.read((), threads=threads, on_bytes=on_bytes)


def load_safetensors_into(
    path: Path,
    destinations: Mapping[str, torch.Tensor | memoryview],
    chunk_digests: Sequence[str] | None,
    *,
    threads: int = THREADS,
    direct: bool | None = None,
    on_bytes: OnBytes | None = None,
) -> None:
    """Fill contiguous CPU tensors, or memory of the right length, with a safetensors file's tensors by name.

    No memory beyond the destinations but 32 MiB. Raises ValueError, before anything is placed, when names, lengths,
    dtypes or shapes are not those of the file; ChunkCorrupt when bytes are not those that were written, and the
    destinations are then partly overwritten; OSError when it can't be read.
    """
    with ChunkedFile(path, chunk_digests, direct=direct) as file:
        start = _checked_header(file)
        base, entries = LENGTH_BYTES + header_bytes(start), read_header(start)
        if entries.keys() != destinations.keys():
            missing, extra = destinations.keys() - entries.keys(), entries.keys() - destinations.keys()
            raise ValueError(f"{path} lacks {sorted(missing)[:5]} and has {sorted(extra)[:5]} too many")
        targets = [_target(name, entry, destinations[name], base) for name, entry in entries.items()]
        targets = sorted((target for target in targets if target.view.nbytes), key=lambda target: target.offset)
        _check_bounds(targets, file)
        file.read(targets, threads=threads, on_bytes=on_bytes)


def load_torch(
    path: Path,
    chunk_digests: Sequence[str] | None,
    *,
    buffer: memoryview | None = None,
    threads: int = THREADS,
    direct: bool | None = None,
    on_bytes: OnBytes | None = None,
) -> Any:
    """What `torch.load(path, map_location="cpu", weights_only=True)` returns, its tensors in one block of memory.

    The file is read once, into `buffer` (writable, at least the file's size) or new memory, which lives as long as
    any of the tensors; each storage is a view of its own there. Raises ChunkCorrupt, OSError, ValueError for a
    buffer that is too small, and what torch.load raises.
    """
    with ChunkedFile(path, chunk_digests, direct=direct) as file:
        if buffer is not None and buffer.nbytes < file.size:
            raise ValueError(f"{path} has {file.size:,} bytes, the buffer {buffer.nbytes:,}")
        image = (aligned_buffer(file.size, huge=True) if buffer is None else buffer)[: file.size]
        file.read([Target(0, image)], threads=threads, on_bytes=on_bytes)
    given: Any = _ImageFile(image)
    place: Any = _placing(image)
    with skip_data():
        return torch.load(given, map_location=place, weights_only=True)


def _checked_header(file: ChunkedFile) -> memoryview:
    start = memoryview(bytearray(min(file.size, CHUNK_BYTES)))
    if file.size < LENGTH_BYTES:
        raise ValueError(f"{file.path} is too short for a safetensors file")
    file.read([Target(0, start)], range(1), threads=1)
    needed = LENGTH_BYTES + header_bytes(start)
    if needed > file.size:
        raise ValueError(f"{file.path} is shorter than its header")
    if needed > start.nbytes:
        start = memoryview(bytearray(needed))
        file.read([Target(0, start)], range(-(-needed // CHUNK_BYTES)), threads=1)
    return start


def _target(name: str, entry: Mapping[str, Any], destination: torch.Tensor | memoryview, base: int) -> Target:
    begin, end = entry["data_offsets"]
    if isinstance(destination, torch.Tensor):
        dtypes = stock_dtypes()
        code = dtypes[destination.dtype].code if destination.dtype in dtypes else str(destination.dtype)
        if (code, list(destination.shape)) != (entry["dtype"], entry["shape"]):
            raise ValueError(f"{name}: {entry['dtype']} {entry['shape']} does not fit {code} {list(destination.shape)}")
        destination = tensor_bytes(destination)
    if destination.nbytes != end - begin:
        raise ValueError(f"{name}: {end - begin:,} bytes do not fit {destination.nbytes:,}")
    return Target(base + begin, destination.cast("B"))


def _check_bounds(targets: Sequence[Target], file: ChunkedFile) -> None:
    ends = [target.offset + target.view.nbytes for target in targets]
    starts = [target.offset for target in targets[1:]]
    if any(end > start for end, start in zip(ends, [*starts, file.size], strict=False)):
        raise ValueError(f"{file.path} has tensors that overlap or lie beyond its end")


def _placing(image: memoryview) -> Callable[[torch.UntypedStorage, str], torch.UntypedStorage]:
    """A `map_location` that gives torch.load the storages of an image instead of the empty ones that it made.

    torch numbers storages as it first meets them in the pickle, so they come in the order of their numbers.
    """
    storages = iter(_storages(image))

    def place(empty: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        del location
        if empty.nbytes() == 0:
            return empty
        view = next(storages)
        if view.nbytes != empty.nbytes():
            raise ValueError("the file's storages are not in the order of its pickle")
        return storage_over(view)

    return place


def _storages(image: memoryview) -> list[memoryview]:
    found: list[tuple[int, memoryview]] = []
    with zipfile.ZipFile(_ImageFile(image)) as archive:
        for info in archive.infolist():
            _, _, name = info.filename.partition("/")
            if info.file_size and name.startswith("data/"):
                lengths = struct.unpack_from("<HH", image, info.header_offset + LOCAL_HEAD - 4)
                start = info.header_offset + LOCAL_HEAD + sum(lengths)
                found.append((int(name.removeprefix("data/")), image[start : start + info.file_size]))
    return [view for _, view in sorted(found, key=lambda item: item[0])]


class _ImageFile(io.RawIOBase):
    """A file object over memory, without a copy of it."""

    def __init__(self, image: memoryview) -> None:
        self._image = image
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(0, offset + (0, self._position, self._image.nbytes)[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        part = self._image[self._position : self._position + len(buffer)]
        buffer[: part.nbytes] = part
        self._position += part.nbytes
        return part.nbytes
