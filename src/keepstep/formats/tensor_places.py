"""Where the bytes of each tensor lie in files of safetensors and of torch, without torch; nothing is unpickled.

What `torch.save` writes is a zip whose entry `data.pkl` is followed as text, and says which entry each tensor is in.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from keepstep.formats.inert_pickle import Inert, UnreadablePickle, interpret
from keepstep.formats.safetensors_header import BITS, TensorEntry, raw_entries

LARGEST_PICKLE = 64 * 2**20
"""Bytes of a `data.pkl` that is followed at most."""
LONGEST_PICKLE = 20_000_000
DEEPEST = 16
MOST_TENSORS = 1_000_000
_LOCAL = struct.Struct("<4s22xHH")
"""A local header of an archive: signature, lengths of name and extra field."""
DTYPES = {
    "double": "F64", "float64": "F64", "float": "F32", "float32": "F32", "half": "F16", "float16": "F16",
    "bfloat16": "BF16", "long": "I64", "int64": "I64", "int": "I32", "int32": "I32", "short": "I16", "int16": "I16",
    "char": "I8", "int8": "I8", "byte": "U8", "uint8": "U8", "bool": "BOOL", "complexfloat": "C64", "complex64": "C64",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip
"""Names of safetensors by torch's names of dtypes, and of the storages that stand for them."""
_REBUILT = "torch._utils._rebuild_tensor"
_PARAMETER = "torch._utils._rebuild_parameter"


_LITTLE = b"little"
_ODD = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RuntimeError)
"""What comes of values that are none of a tensor's, and of what is nested without end."""


class NoPlaces(ValueError):
    """The tensors of a file can't be told without running it, or it is damaged; the text says why."""


class TensorPlace(NamedTuple):
    """One tensor in a file: its dtype by safetensors' name, its shape in elements, and `nbytes` from `offset` on.

    `flaw` says why its bytes can't be read one behind the other; empty where they can. `strides` are there where its
    elements lie in another order, in elements: from `offset` on, within `nbytes`.
    """

    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int = 0
    nbytes: int = 0
    flaw: str = ""
    strides: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        return TensorEntry(self.dtype, self.shape).elements


def places_in(path: Path) -> dict[str, TensorPlace]:
    """The tensors of a file by name; in a file of torch a name is the way to the tensor, joined by dots.

    Raises NoPlaces, and OSError.
    """
    return _in_safetensors(path) if path.name.endswith(".safetensors") else _in_torch(path)


def _in_safetensors(path: Path) -> dict[str, TensorPlace]:
    size = os.path.getsize(path)
    found: dict[str, TensorPlace] = {}
    try:
        start, entries = raw_entries(path)
        for name, entry in entries.items():
            begin, end = map(int, entry["data_offsets"])
            place = TensorPlace(str(entry["dtype"]), tuple(map(int, entry["shape"])), path, start + begin, end - begin)
            if begin < 0 or end < begin or any(extent < 0 for extent in place.shape):
                raise NoPlaces("gives a tensor a place that there is not")
            found[name] = _checked(place, size)
    except NoPlaces:
        raise
    except _ODD as error:
        raise NoPlaces("is no safetensors file, or is cut") from error
    return found


def _checked(place: TensorPlace, size: int) -> TensorPlace:
    bits = BITS.get(place.dtype)
    if bits is None:
        return place._replace(flaw=f"nothing is known of the dtype {place.dtype}")
    if place.nbytes * 8 != place.elements * bits or place.offset + place.nbytes > size:
        raise NoPlaces("is cut, or gives a tensor a place that does not fit it")
    return place


def place_within(file: BinaryIO, path: Path, offset: int, length: int) -> TensorPlace:
    """The one tensor that `torch.save` wrote as `length` bytes of an open file from `offset` on.

    Raises NoPlaces, also where it holds anything else, and OSError.
    """
    found = list(_in_archive(_Window(file, offset, length), path, length).items())
    if len(found) != 1 or found[0][0]:
        raise NoPlaces(f"holds no tensor by itself from byte {offset:,} on")
    return found[0][1]._replace(offset=found[0][1].offset + offset)


def _in_torch(path: Path) -> dict[str, TensorPlace]:
    with open(path, "rb") as file:
        return _in_archive(file, path, os.fstat(file.fileno()).st_size)


class _Window(io.RawIOBase):
    """A part of an open file as a file by itself, which is only read."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise OSError(f"{offset} is before the begin")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._length - self._at, 0)
        self._file.seek(self._start + self._at)
        found = self._file.read(left if size is None or size < 0 else min(size, left))
        self._at += len(found)
        return found


def _in_archive(file: Any, path: Path, size: int) -> dict[str, TensorPlace]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            root = next((name for name in entries if name.endswith("/data.pkl")), None)
            if root is None:
                raise NoPlaces("is an archive without data.pkl")
            prefix = root.removesuffix("data.pkl")
            if entries[root].file_size > LARGEST_PICKLE or entries[root].compress_type != zipfile.ZIP_STORED:
                raise NoPlaces("has a data.pkl that is larger than one is, or packed")
            order = entries.get(f"{prefix}byteorder")
            if order is not None and (order.file_size > len(_LITTLE) or archive.read(order) != _LITTLE):
                raise NoPlaces("was written on a machine of another byte order")
            described = interpret(archive.read(root), largest=LARGEST_PICKLE, longest=LONGEST_PICKLE)
            places = _Archive(path, file, entries, prefix, size)
            return dict(places.tensors(described, "", 0))
    except NoPlaces:
        raise
    except UnreadablePickle as error:
        raise NoPlaces(f"can't be followed: {error}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error, *_ODD) as error:
        raise NoPlaces("is no archive of torch.save, or is cut: what older ones wrote is a pickle alone") from error


class _Archive:
    """Finds the tensors in what a `data.pkl` describes, and the entries of the archive that they are in."""

    def __init__(self, path: Path, file: Any, entries: dict[str, zipfile.ZipInfo], prefix: str, size: int) -> None:
        self._path = path
        self._size = size
        self._file = file
        self._entries = entries
        self._prefix = prefix
        self._visited = 0
        self._starts: dict[str, tuple[int, int]] = {}

    def tensors(self, value: Any, name: str, depth: int) -> Iterator[tuple[str, TensorPlace]]:
        """Names and places, in the order of the file."""
        self._visited += 1
        if depth > DEEPEST or self._visited > MOST_TENSORS:
            raise NoPlaces("is nested deeper, or holds more, than a file of tensors does")
        match value:
            case dict():
                for key, inside in value.items():  # pyright: ignore[reportUnknownVariableType]
                    yield from self.tensors(inside, f"{name}.{key}" if name else str(key), depth + 1)  # pyright: ignore[reportUnknownArgumentType]
            case list() | tuple():
                for number, inside in enumerate(value):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
                    yield from self.tensors(inside, f"{name}.{number}" if name else str(number), depth + 1)
            case Inert(name=maker, arguments=(inside, *_)) if maker == _PARAMETER:  # pyright: ignore[reportUnknownVariableType]
                yield from self.tensors(inside, name, depth + 1)
            case Inert(name=maker, arguments=tuple()) if maker.startswith(_REBUILT):
                yield name, self._place(value)
            case _:
                return

    def _place(self, made: Inert) -> TensorPlace:
        match made.arguments:
            case (Inert(arguments=((_, Inert(name=storage), str() as key, *_),)), int() as skipped, tuple() as shape,
                  tuple() as strides, *more):  # fmt: skip
                named = next((part.name for part in more if isinstance(part, Inert) and part.name[6:] in DTYPES), "")
                dtype = DTYPES.get((named or storage).rpartition(".")[2].lower().removesuffix("storage"), "")
                return self._in_entry(dtype or storage, tuple(map(int, shape)), tuple(map(int, strides)), key, skipped)
            case _:
                return TensorPlace("", (), self._path, flaw="it is no plain tensor")

    def _in_entry(
        self, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...], key: str, skipped: int
    ) -> TensorPlace:
        place = TensorPlace(dtype, shape, self._path)
        if dtype not in BITS:
            return place._replace(flaw=f"nothing is known of the dtype {dtype}")
        start, length = self._start_of(f"{self._prefix}data/{key}")
        in_a_row = _in_a_row(shape, strides)
        nbytes = (place.elements if in_a_row else _reach(shape, strides)) * BITS[dtype] // 8
        begin = skipped * BITS[dtype] // 8
        if begin < 0 or nbytes < 0 or begin + nbytes > length:
            raise NoPlaces("is cut, or gives a tensor a place that does not fit it")
        found = place._replace(offset=start + begin, nbytes=nbytes)
        return found if in_a_row else found._replace(flaw=_TURNED, strides=strides)

    def _start_of(self, name: str) -> tuple[int, int]:
        """Where the bytes of an entry begin in the file, and how many there are."""
        if name not in self._starts:
            entry = self._entries.get(name)
            if entry is None or entry.compress_type != zipfile.ZIP_STORED:
                raise NoPlaces(f"has no entry {name} that is stored as it is")
            self._file.seek(entry.header_offset)
            _, named, extra = _LOCAL.unpack(self._file.read(_LOCAL.size))
            start = entry.header_offset + _LOCAL.size + named + extra
            if start + entry.file_size > self._size:
                raise NoPlaces(f"is cut in {name}")
            self._starts[name] = start, entry.file_size
        return self._starts[name]


_TURNED = "its elements don't lie one behind the other"


def _reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to behind the last of a tensor, whatever their order; -1 for what is no tensor's."""
    if len(shape) != len(strides) or min((*shape, *strides), default=0) < 0:
        return -1
    return 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)) if all(shape) else 0


def _in_a_row(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    step = 1
    for extent, stride in zip(reversed(shape), reversed(strides), strict=False):
        if extent not in (0, 1) and stride != step:
            return False
        step *= extent
    return len(shape) == len(strides) and all(extent >= 0 for extent in shape)
