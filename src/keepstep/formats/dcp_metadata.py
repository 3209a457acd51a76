"""`.metadata` of a distributed checkpoint (torch.distributed.checkpoint): which tensors are in which files, and where.

It is a pickle. Only the names that its writer uses are taken, each for a stand-in that is made here: nothing of
torch, and nothing that the file names, is imported or called.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from keepstep.formats.safetensors_header import BITS
from keepstep.formats.tensor_places import DTYPES

METADATA = ".metadata"
PART = ".distcp"
"""What the names of the ranks' files end in: `__<rank>_<number>.distcp`."""
LARGEST = 2**30
"""Bytes of metadata that are read at most: some ten million pieces of tensors."""
_RANK = re.compile(r"(?:.*/)?__(\d{1,9})_\d+\.distcp")


class UnreadableMetadata(ValueError):
    """The metadata names what no writer of such checkpoints does, leads elsewhere, or is damaged."""


class Slot(NamedTuple):
    """Where an item lies: the path of a file relative to the metadata's directory, and bytes in it."""

    file: str
    offset: int
    length: int


class Chunk(NamedTuple):
    """A box of a tensor: where it begins in each dimension, its extents, and where its item lies."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    slot: Slot


class ShardedTensor(NamedTuple):
    """A tensor in chunks that cover it and don't overlap: dtype by safetensors' name (torch's, where that has none)."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * BITS.get(self.dtype, 8) // 8


@dataclass(frozen=True)
class DcpMetadata:
    """What one `.metadata` says: tensors by name, and the items that are pickles, which are never opened here.

    Names are those that the saved state had, without the `model` or `optimizer` that accelerate puts around it.
    """

    tensors: Mapping[str, ShardedTensor]
    objects: Mapping[str, Slot]

    @cached_property
    def extents(self) -> dict[str, int]:
        """Bytes that each file must have at least, by its path relative to the directory."""
        found: dict[str, int] = {}
        for slot in self._slots():
            found[slot.file] = max(found.get(slot.file, 0), slot.offset + slot.length)
        return dict(sorted(found.items()))

    def _slots(self) -> list[Slot]:
        return [*(c.slot for tensor in self.tensors.values() for c in tensor.chunks), *self.objects.values()]


def rank_of(file: str) -> int | None:
    """The rank that wrote a file, by its name; None for another name."""
    found = _RANK.fullmatch(file)
    return int(found[1]) if found else None


def read_metadata(directory: Path) -> DcpMetadata:
    """The metadata in a directory. Raises UnreadableMetadata, FileNotFoundError, OSError."""
    with open(directory / METADATA, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise UnreadableMetadata("is larger than such metadata is")
    return parse_metadata(data)


def parse_metadata(data: bytes) -> DcpMetadata:
    """The metadata in these bytes. Raises UnreadableMetadata."""
    try:
        return _checked(_Unpickler(data).load())
    except UnreadableMetadata:
        raise
    # What a pickle's machine raises of bytes that are none, and of values that are not what the names promise.
    except (pickle.UnpicklingError, EOFError, ArithmeticError, AttributeError, ImportError, LookupError, MemoryError,
            TypeError, ValueError, RecursionError) as error:  # fmt: skip
        raise UnreadableMetadata(f"is damaged, or no metadata of torch's: {type(error).__name__}: {error}") from error


_DCP = "torch.distributed.checkpoint.metadata"
_RECORDS = {
    (_DCP, "Metadata"), (_DCP, "TensorStorageMetadata"), (_DCP, "BytesStorageMetadata"), (_DCP, "TensorProperties"),
    (_DCP, "ChunkStorageMetadata"), (_DCP, "MetadataIndex"), (_DCP, "StorageMeta"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}  # fmt: skip
_VALUES = {
    (_DCP, "_MEM_FORMAT_ENCODING"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"), ("pathlib._local", "PosixPath"), ("pathlib._local", "WindowsPath"),
    ("builtins", "getattr"),  # Python 3.11.0 names a member of an enumeration so
}  # fmt: skip
"""What is called in the pickle and says nothing about where a tensor lies."""


class _Unpickler(pickle.Unpickler):
    """Knows the names of the metadata and no others. Stand-ins are of one load: no file changes the next's."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._known: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        key = (module, name)
        if key not in self._known:
            self._known[key] = _stand_in(module, name)
        return self._known[key]

    def persistent_load(self, pid: Any, /) -> Any:
        raise UnreadableMetadata("refers to what lies outside of it")


def _stand_in(module: str, name: str) -> Any:
    key = (module, name)
    if key in _RECORDS:
        return type(name, (_Record,), {})
    if key in _VALUES:
        return _saying(None)
    if key == ("torch", "Size"):
        return lambda extents=(): tuple(extents)
    if key == ("collections", "OrderedDict"):
        return type(name, (dict,), {})
    if module == "torch" and (name in _TORCH_DTYPES or name in _MEMORY_FORMATS):
        return _Dtype(name)
    raise UnreadableMetadata(f"names {module}.{name}, which is no part of such metadata: it was not run")


def _saying(value: object) -> Callable[..., object]:
    return lambda *_: value


_TORCH_DTYPES = frozenset({*DTYPES, "complex32", "complex128", "quint8", "qint8", "qint32", "float4_e2m1fn_x2"})
_MEMORY_FORMATS = frozenset({"contiguous_format", "channels_last", "channels_last_3d", "preserve_format", "strided"})


class _Record:
    """The fields that a pickle gives to an object of the metadata, and no behaviour."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple):
            state = {"properties": state}  # a tensor's properties, the dtype first
        if not isinstance(state, dict):
            raise TypeError(f"{type(self).__name__} has no fields")
        vars(self)["fields"] = state


class _Dtype:
    def __init__(self, name: str) -> None:
        self.name = name


def _fields(value: Any, kind: str) -> dict[str, Any]:
    if not isinstance(value, _Record) or type(value).__name__ != kind:
        raise UnreadableMetadata(f"has no {kind} where one is due")
    return vars(value).get("fields", {})


def _checked(found: Any) -> DcpMetadata:
    top = _fields(found, "Metadata")
    slots: dict[tuple[str, tuple[int, ...]], Slot] = {}
    for index, info in top["storage_data"].items():
        where = _fields(index, "MetadataIndex")
        slots[_text(where["fqn"]), _extents(where.get("offset") or ())] = _slot(_fields(info, "_StorageInfo"))
    names = _names(top["state_dict_metadata"], top.get("planner_data"))
    tensors: dict[str, ShardedTensor] = {}
    objects: dict[str, Slot] = {}
    for key, item in top["state_dict_metadata"].items():
        if isinstance(item, _Record) and type(item).__name__ == "BytesStorageMetadata":
            objects[names[key]] = _found(slots, key, ())
        else:
            tensors[names[key]] = _tensor(key, _fields(item, "TensorStorageMetadata"), slots)
    return DcpMetadata(tensors, objects)


def _names(items: Any, ways: Any) -> dict[str, str]:
    """The names of the items as they were before they were put below a name of accelerate's.

    `ways` are the keys that lead to each, as the planner of a save notes them.
    """
    keys = [_text(key) for key in items]
    if not isinstance(ways, dict):
        return {key: key for key in keys}
    firsts = {way[0] if isinstance(way := ways.get(key), tuple) and len(way) > 1 else None for key in keys}
    if len(firsts) != 1 or (first := firsts.pop()) not in ("model", "optimizer"):
        return {key: key for key in keys}
    return {key: key.removeprefix(f"{first}.") for key in keys}


def _tensor(name: str, fields: dict[str, Any], slots: Mapping[Any, Slot]) -> ShardedTensor:
    dtype = _fields(fields["properties"], "TensorProperties")["properties"][0]
    if not isinstance(dtype, _Dtype) or dtype.name not in _TORCH_DTYPES:
        raise UnreadableMetadata(f"gives {name} no dtype")
    shape = _extents(fields["size"])
    boxes: dict[tuple[tuple[int, ...], tuple[int, ...]], Chunk] = {}
    for chunk in fields["chunks"]:
        one = _fields(chunk, "ChunkStorageMetadata")
        offsets, sizes = _extents(one["offsets"]), _extents(one["sizes"])
        boxes[offsets, sizes] = Chunk(offsets, sizes, _found(slots, name, offsets))
    found = ShardedTensor(DTYPES.get(dtype.name, dtype.name), shape, tuple(sorted(boxes.values())))
    _check_cover(name, found)
    return found


def _found(slots: Mapping[Any, Slot], name: str, offsets: tuple[int, ...]) -> Slot:
    slot = slots.get((name, offsets))
    if slot is None:
        raise UnreadableMetadata(f"does not say where {name} lies")
    return slot


def _check_cover(name: str, tensor: ShardedTensor) -> None:
    """The chunks must be the tensor, each element once."""
    for chunk in tensor.chunks:
        fits = len(chunk.offsets) == len(chunk.sizes) == len(tensor.shape) and all(
            begin + size <= extent for begin, size, extent in zip(chunk.offsets, chunk.sizes, tensor.shape, strict=True)
        )
        if not fits:
            raise UnreadableMetadata(f"gives {name} a piece that lies outside of it")
    if sum(prod(chunk.sizes) for chunk in tensor.chunks) != tensor.elements or _overlap(tensor):
        raise UnreadableMetadata(f"has no pieces of {name} that are all of it, each element once")


def _overlap(tensor: ShardedTensor) -> bool:
    open_: list[Chunk] = []
    for chunk in tensor.chunks if tensor.shape else ():  # in the order of their begin in the first dimension
        open_ = [one for one in open_ if one.offsets[0] + one.sizes[0] > chunk.offsets[0]]
        if all(chunk.sizes):
            if any(_meet(one, chunk) for one in open_):
                return True
            open_.append(chunk)
    return False


def _meet(one: Chunk, other: Chunk) -> bool:
    return all(
        a < b + n and b < a + m for a, m, b, n in zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
    )


def _slot(fields: dict[str, Any]) -> Slot:
    file = _text(fields["relative_path"])
    if fields.get("transform_descriptors"):
        raise UnreadableMetadata(f"says that {file} is packed, which is not read here")
    inside = file and not file.startswith("/") and "\\" not in file and "\0" not in file
    if not inside or any(part in ("", ".", "..") for part in file.split("/")):
        raise UnreadableMetadata(f"leads out of its directory: {file!r}")
    offset, length = _extents((fields["offset"], fields["length"]))
    return Slot(file, offset, length)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise UnreadableMetadata("has a name that is no text")
    return value


def _extents(values: Any) -> tuple[int, ...]:
    found = tuple(values)
    if any(type(value) is not int or value < 0 for value in found):
        raise UnreadableMetadata("has a size that is none")
    return found
