"""Loads stock files in one pass: read, checked and placed; nothing is parsed or unpickled before its digest held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from keepstep.formats.chunks import THREADS, ChunkedFile, OnBytes
from keepstep.formats.image import objects_of
from keepstep.formats.memory import aligned_buffer
from keepstep.formats.safetensors_file import LENGTH_BYTES, header_bytes, read_header, stock_dtypes
from keepstep.formats.targets import Target
from keepstep.formats.tensors import tensor_bytes
from keepstep.model import CHUNK_BYTES


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
    return objects_of(image)


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
