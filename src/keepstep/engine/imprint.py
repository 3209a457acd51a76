"""The imprint of a state: a digest of every tensor, by its name in memory, taken while the state is saved."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
import xxhash

from keepstep.formats.tensors import flat_bytes, tensor_bytes

logger = logging.getLogger("keepstep")

IMPRINT_NAME = "keepstep_imprint.mpz"
"""The file of a checkpoint that holds its imprint, rank 0's where each has its own: msgpack, compressed by zlib."""
FORMAT = 1
DIGEST_BYTES = 16
PIECE_BYTES = 64 * 2**20
"""How much of a tensor on a device is brought to host memory at once."""
THREADS = 4
"""How many share the tensors of a state; no more than there are processors."""
WORTH_SHARING = 16 * 2**20
"""Bytes below which a thread would take longer to begin than to end."""
Where = tuple[int, int]
"""Address of a tensor's first byte, and how many follow one another there."""


class Mark(NamedTuple):
    """What a tensor was: dtype ("float32"), shape, and the 16 bytes of xxh3-128 of its values in row-major order."""

    dtype: str
    shape: tuple[int, ...]
    digest: bytes

    @property
    def numel(self) -> int:
        """How many values it has."""
        count = 1
        for size in self.shape:
            count *= size
        return count


Marks = Mapping[str, Mark]


class Imprint(NamedTuple):
    """The marks of the tensors of a model and of an optimizer's state, by name.

    `unwritten` names tensors of the model that are in no file of the checkpoint as they were in memory. `layout` says,
    where each rank has an imprint of its own part, how the state is divided: parts compare where that is the same.
    """

    model: Marks
    optimizer: Marks
    unwritten: frozenset[str] = frozenset()
    layout: str = ""

    def write(self, directory: Path, rank: int = 0) -> None:
        """Put it beside a checkpoint's other files. Raises OSError."""
        everything = [*self.model.values(), *self.optimizer.values()]
        content = _Content(
            FORMAT,
            [_Row(name, mark.dtype, mark.shape) for name, mark in self.model.items()],
            [_Row(name, mark.dtype, mark.shape) for name, mark in self.optimizer.items()],
            b"".join(mark.digest for mark in everything),
            sorted(self.unwritten),
            self.layout,
        )
        (directory / imprint_name(rank)).write_bytes(zlib.compress(msgspec.msgpack.encode(content), 1))

    @classmethod
    def read(cls, directory: Path, rank: int = 0) -> Imprint | None:
        """What a checkpoint's files hold; None without one, or of a format that is not known here."""
        path = directory / imprint_name(rank)
        if not path.is_file():
            return None
        try:
            content = msgspec.msgpack.decode(zlib.decompress(path.read_bytes()), type=_Content)
        except (zlib.error, msgspec.DecodeError) as error:
            logger.warning("%s can't be read, so that the state is not compared: %s", path, error)
            return None
        if content.format != FORMAT:
            return None
        digests = _parts(content.digests)
        model = {row.name: Mark(row.dtype, row.shape, next(digests)) for row in content.model}
        optimizer = {row.name: Mark(row.dtype, row.shape, next(digests)) for row in content.optimizer}
        return cls(model, optimizer, frozenset(content.unwritten), content.layout)


def mark_of(tensor: torch.Tensor) -> Mark:
    """The mark of a live tensor, on any device, of any dtype, shape and stride; waits for a device.

    Raises ValueError, TypeError, RuntimeError or NotImplementedError for one that has no bytes in a row of its own:
    sparse or quantized ones, and those on the meta device.
    """
    hasher = xxhash.xxh3_128()
    for part in _bytes_of(tensor.detach()):
        hasher.update(part)
    return Mark(_dtype(tensor), tuple(tensor.shape), hasher.digest())


def marks_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Mark]:
    """The marks of live tensors by name, taken by a few threads. Raises as `mark_of`."""
    threads = min(THREADS, len(os.sched_getaffinity(0)), len(tensors))
    if threads < 2 or sum(tensor.nbytes for tensor in tensors.values()) < WORTH_SHARING:
        return {name: mark_of(tensor) for name, tensor in tensors.items()}
    shares: list[list[str]] = [[] for _ in range(threads)]
    sizes = [0] * threads
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].nbytes):
        least = sizes.index(min(sizes))
        sizes[least] += tensor.nbytes
        shares[least].append(name)

    def marks(names: list[str]) -> dict[str, Mark]:
        return {name: mark_of(tensors[name]) for name in names}

    with ThreadPoolExecutor(threads, "keepstep-marks") as pool:
        return {name: mark for part in pool.map(marks, shares) for name, mark in part.items()}


class Impression:
    """An imprint while it is taken.

    `model` and `optimizer` are live tensors by name. What is written as it lies in memory gets its digest from the
    pass that writes it, everything else at once. `optional` names tensors that count only where they are written.
    Tensors of which no digest can be taken are left out. `unwritten` is to be told when the files are known.
    """

    def __init__(
        self,
        model: Mapping[str, torch.Tensor],
        optimizer: Mapping[str, torch.Tensor],
        *,
        optional: Collection[str] = (),
    ) -> None:
        self._live = {(True, name): tensor for name, tensor in model.items()}
        self._live |= {(False, name): tensor for name, tensor in optimizer.items()}
        self._optional = optional
        self._expected: dict[tuple[str, str], list[tuple[bool, str]]] = {}
        self._marks: dict[tuple[bool, str], Mark] = {}
        self.unwritten: frozenset[str] = frozenset()

    def take_changing(self, buffers: Iterable[torch.Tensor], copies: Mapping[Where, torch.Tensor]) -> None:
        """Of tensors that a forward pass may change, take the digest now, or of the copy that is to be written."""
        changing = {id(buffer) for buffer in buffers}
        for key, tensor in [item for item in self._live.items() if id(item[1]) in changing]:
            where = where_of(tensor)
            if where is not None and where in copies:
                self._live[key] = copies[where]
            else:
                self._take(key, self._live.pop(key))

    def take(self, written: Mapping[Where, tuple[str, str]]) -> None:
        """Let go of all tensors. `written` has file and name of those that are written: their digests follow."""
        for key, tensor in self._live.items():
            where = where_of(tensor)
            if where is not None and where in written:
                self._expected.setdefault(written[where], []).append(key)
                self._marks[key] = Mark(_dtype(tensor), tuple(tensor.shape), b"")
            elif key[1] not in self._optional:
                self._take(key, tensor)
        self._live = {}

    def take_all(self, written: Callable[[torch.Tensor], bool]) -> None:
        """Take every digest now, and let go of the tensors; `written` tells which of them lie in a file."""
        for key, tensor in self._live.items():
            if key[1] not in self._optional or written(tensor):
                self._take(key, tensor)
        self._live = {}

    def fill(self, path: str, digests: Mapping[str, bytes]) -> None:
        """Hear the digests of the sources of a file that was written."""
        for name, digest in digests.items():
            for key in self._expected.get((path, name), ()):
                self._marks[key] = self._marks[key]._replace(digest=digest)

    def imprint(self) -> Imprint:
        """All marks that were taken."""
        taken = {key: mark for key, mark in self._marks.items() if mark.digest}
        model = {name: mark for (of_model, name), mark in taken.items() if of_model}
        optimizer = {name: mark for (of_model, name), mark in taken.items() if not of_model}
        return Imprint(model, optimizer, self.unwritten)

    def _take(self, key: tuple[bool, str], tensor: torch.Tensor) -> None:
        try:
            self._marks[key] = mark_of(tensor)
        except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            logger.debug("no digest of %s: %s", key[1], error)


def where_of(tensor: torch.Tensor | torch.UntypedStorage) -> Where | None:
    """Where the bytes of a tensor, or of a storage, lie in a row; None where they do not, or there are none."""
    if isinstance(tensor, torch.UntypedStorage):
        return (tensor.data_ptr(), tensor.nbytes()) if tensor.nbytes() else None
    try:
        if tensor.layout != torch.strided or not tensor.is_contiguous() or tensor.is_neg() or tensor.is_conj():
            return None
        size = tensor.numel() * tensor.element_size()
        return (tensor.data_ptr(), size) if size and tensor.data_ptr() else None
    except (NotImplementedError, RuntimeError):
        return None


class _Row(msgspec.Struct, array_like=True):
    name: str
    dtype: str
    shape: tuple[int, ...]


class _Content(msgspec.Struct):
    format: int
    model: list[_Row]
    optimizer: list[_Row]
    digests: bytes
    unwritten: list[str]
    layout: str = ""


def imprint_name(rank: int) -> str:
    """The name of a rank's imprint."""
    return IMPRINT_NAME if rank == 0 else IMPRINT_NAME.replace(".", f"_{rank}.")


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _bytes_of(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The values of a tensor in row-major order, in pieces."""
    plain = tensor.resolve_conj().resolve_neg().contiguous()
    if plain.device.type == "cpu":
        yield tensor_bytes(plain)
        return
    flat = flat_bytes(plain)
    for start in range(0, flat.numel(), PIECE_BYTES):
        yield tensor_bytes(flat[start : start + PIECE_BYTES].cpu())


def _parts(digests: bytes) -> Iterator[bytes]:
    return iter([digests[start : start + DIGEST_BYTES] for start in range(0, len(digests), DIGEST_BYTES)])
