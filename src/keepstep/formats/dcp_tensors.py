"""The tensors of a distributed checkpoint, put together from the files of its ranks; nothing is unpickled."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

from keepstep.formats.dcp_metadata import (
    METADATA,
    Chunk,
    DcpMetadata,
    ShardedTensor,
    Slot,
    UnreadableMetadata,
    rank_of,
    read_metadata,
)
from keepstep.formats.safetensors_header import BITS
from keepstep.formats.tensor_places import NoPlaces, TensorPlace, place_within

OPEN = 128
"""Files of ranks that are held open at most."""
_WORDS: dict[int, Any] = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Torn(ValueError):
    """A file of a rank is missing, cut or not what the metadata says; the text names it, and the rank that wrote it."""


class DcpTensors:
    """The tensors of one directory by name, read from element to element. A context manager.

    Memory is that of what is asked for; a chunk whose elements lie in another order is read whole beside it. Threads
    may share one: they read one after the other.
    """

    def __init__(self, directory: Path, metadata: DcpMetadata | None = None) -> None:
        """Raises UnreadableMetadata, FileNotFoundError, OSError."""
        self.directory = directory
        self.metadata = read_metadata(directory) if metadata is None else metadata
        self._places: dict[Slot, TensorPlace] = {}
        self._opened: dict[str, BinaryIO] = {}
        self._stack = ExitStack()
        self._lock = Lock()

    def __enter__(self) -> DcpTensors:
        self._stack.callback(self._close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def tensors(self) -> Mapping[str, ShardedTensor]:
        """What there is, by name."""
        return self.metadata.tensors

    def read(self, name: str, view: memoryview, start: int = 0) -> None:
        """Fill writable memory with a tensor's elements from `start` on, in the order of a contiguous tensor.

        Raises Torn, UnreadableMetadata for a dtype that is not known, OSError.
        """
        tensor = self.tensors[name]
        if tensor.dtype not in BITS:
            raise UnreadableMetadata(f"has {name} as {tensor.dtype}, of which nothing is known")
        size = BITS[tensor.dtype] // 8
        with self._lock:
            self._read(name, view.cast("B"), start, size)

    def _read(self, name: str, view: memoryview, start: int, size: int) -> None:
        tensor = self.tensors[name]
        stop = start + view.nbytes // size
        for chunk in tensor.chunks:
            place: TensorPlace | None = None
            turned = memoryview(b"")
            for run in _runs(tensor, chunk, start, stop):
                if place is None:
                    place = self._place(name, tensor, chunk)
                    turned = self._turned(chunk, place, size)
                target = view[(run.whole - start) * size :][: run.elements * size]
                if turned:
                    target[:] = turned[run.chunk * size :][: run.elements * size]
                else:
                    self._fill(chunk.slot.file, target, place.offset + run.chunk * size)

    def _place(self, name: str, tensor: ShardedTensor, chunk: Chunk) -> TensorPlace:
        slot = chunk.slot
        if slot not in self._places:
            try:
                place = place_within(self._file(slot.file), self.directory / slot.file, slot.offset, slot.length)
            except NoPlaces as error:
                raise Torn(f"{described(slot.file)} {error}, where {name} is due") from error
            if (place.dtype, place.shape) != (tensor.dtype, chunk.sizes) or (place.flaw and not place.strides):
                raise Torn(f"{described(slot.file)} holds another tensor than {name} from byte {slot.offset:,} on")
            self._places[slot] = place
        return self._places[slot]

    def _turned(self, chunk: Chunk, place: TensorPlace, size: int) -> memoryview:
        """The bytes of a chunk that is stored in another order, put right; nothing for any other."""
        if not place.strides:
            return memoryview(b"")
        stored = memoryview(bytearray(place.nbytes))
        self._fill(chunk.slot.file, stored, place.offset)
        found = memoryview(bytearray(prod(chunk.sizes) * size))
        source, target = stored.cast(_WORDS[size]), found.cast(_WORDS[size])
        *outer, last = chunk.sizes
        *steps, step = place.strides
        for row in range(prod(outer)):
            rest, begin = row, 0
            for extent, stride in zip(reversed(outer), reversed(steps), strict=True):
                rest, index = divmod(rest, extent)
                begin += index * stride
            for column in range(last) if step == 0 else ():
                target[row * last + column] = source[begin]
            if step:
                target[row * last : (row + 1) * last] = source[begin : begin + (last - 1) * step + 1 : step]
        return found

    def _fill(self, file: str, view: memoryview, offset: int) -> None:
        descriptor = self._file(file).fileno()
        while view.nbytes:
            got = os.preadv(descriptor, [view], offset)
            if not got:
                raise Torn(f"{described(file)} ends before byte {offset + view.nbytes:,}")
            view, offset = view[got:], offset + got

    def _file(self, name: str) -> BinaryIO:
        if name not in self._opened:
            while len(self._opened) >= OPEN:
                self._opened.pop(next(iter(self._opened))).close()
            try:
                self._opened[name] = open(self.directory / name, "rb")  # noqa: SIM115 - closed at the end, or above
            except FileNotFoundError as error:
                raise Torn(f"{described(name)} is missing, which {METADATA} names") from error
        return self._opened[name]

    def _close(self) -> None:
        for file in self._opened.values():
            file.close()
        self._opened.clear()


@dataclass(frozen=True, slots=True)
class ShardedPlace:
    """A tensor of a distributed checkpoint as a place that it is read from: `path` is the directory."""

    path: Path
    metadata: DcpMetadata
    name: str
    flaw: str = ""

    @property
    def dtype(self) -> str:
        return self._tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._tensor.shape

    @property
    def elements(self) -> int:
        return self._tensor.elements

    @property
    def nbytes(self) -> int:
        return self._tensor.nbytes

    @property
    def _tensor(self) -> ShardedTensor:
        return self.metadata.tensors[self.name]


def places_of_ranks(directory: Path) -> dict[str, ShardedPlace]:
    """The tensors of a distributed checkpoint by name. Raises UnreadableMetadata, FileNotFoundError, OSError."""
    metadata = read_metadata(directory)
    return {name: ShardedPlace(directory, metadata, name) for name in metadata.tensors}


def described(file: str) -> str:
    """A rank's file, and whose it is."""
    rank = rank_of(file)
    return file if rank is None else f"{file} (of rank {rank})"


class _Run(NamedTuple):
    """Elements that follow one another in the tensor and in a chunk of it: where they begin in both, and how many."""

    whole: int
    chunk: int
    elements: int


def _runs(tensor: ShardedTensor, chunk: Chunk, start: int, stop: int) -> Iterator[_Run]:
    """The runs of a chunk between two elements of the tensor, in order; an empty chunk has none."""
    if not all(chunk.sizes):
        return
    strides = [prod(tensor.shape[dimension + 1 :]) for dimension in range(len(tensor.shape))]
    # Behind the last dimension that a chunk has only a part of, its elements follow one another as the tensor's do.
    cut = max(
        (d for d, (size, all_) in enumerate(zip(chunk.sizes, tensor.shape, strict=True)) if size != all_), default=0
    )
    outer, length = chunk.sizes[:cut], prod(chunk.sizes[cut:])
    base = sum(offset * stride for offset, stride in zip(chunk.offsets, strides, strict=True))

    def begin(number: int) -> int:
        found = base
        for dimension in reversed(range(cut)):
            number, index = divmod(number, outer[dimension])
            found += index * strides[dimension]
        return found

    count = prod(outer)
    first = max(bisect_right(range(count), start, key=begin) - 1, 0)
    for number in range(first, count):
        at = begin(number)
        if at >= stop:
            return
        low, high = max(at, start), min(at + length, stop)
        if low < high:
            yield _Run(low, number * length + low - at, high - low)
