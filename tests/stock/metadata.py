"""`.metadata` of torch's distributed checkpoints, made without torch: one tensor of bytes for each file of a rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_DCP = "torch.distributed.checkpoint.metadata"


class _Global(NamedTuple):
    module: str
    name: str


class _Called(NamedTuple):
    maker: _Global
    arguments: tuple[Any, ...]


class _Record:
    """By identity a key, as what it stands for is one by its fields."""

    def __init__(self, cls: _Global, state: Any) -> None:
        self.cls = cls
        self.state = state


def dcp_metadata(files: Mapping[str, int]) -> bytes:
    """The metadata of a directory whose files have these lengths, in bytes."""
    tensors: dict[Any, Any] = {}
    places: dict[Any, Any] = {}
    for number, (file, length) in enumerate(files.items()):
        name = f"model.t{number}"
        none = _size(0)
        chunk = _record("ChunkStorageMetadata", {"offsets": none, "sizes": _size(length)})
        memory = _Called(_Global(_DCP, "_MEM_FORMAT_ENCODING"), (0,))
        layout = _Called(_Global("torch.serialization", "_get_layout"), ("torch.strided",))
        properties = _record("TensorProperties", (_Global("torch", "uint8"), layout, False, memory, False))
        tensors[name] = _record(
            "TensorStorageMetadata", {"properties": properties, "size": _size(length), "chunks": [chunk]}
        )
        info = _Global("torch.distributed.checkpoint.filesystem", "_StorageInfo")
        key = _record("MetadataIndex", {"fqn": name, "offset": none, "index": 0})
        places[key] = _Record(info, {"relative_path": file, "offset": 0, "length": length})
    state = {"state_dict_metadata": tensors, "planner_data": None, "storage_data": places, "version": "1.0.0"}
    return b"\x80\x02" + _pickled(_record("Metadata", state)) + b"."


def _record(name: str, state: Any) -> _Record:
    return _Record(_Global(_DCP, name), state)


def _size(*extents: int) -> _Called:
    return _Called(_Global("torch", "Size"), (extents,))


def _pickled(value: Any) -> bytes:
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"J" + value.to_bytes(4, "little")
        case str():
            return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()
        case _Global():
            return f"c{value.module}\n{value.name}\n".encode()
        case _Called():
            return _pickled(value.maker) + _pickled(value.arguments) + b"R"
        case _Record():
            return _pickled(value.cls) + b")\x81" + _pickled(value.state) + b"b"
        case dict():
            return b"}(" + b"".join(_pickled(k) + _pickled(v) for k, v in value.items()) + b"u"
        case list():
            return b"](" + b"".join(map(_pickled, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(_pickled, value)) + b"t"
        case _:
            raise TypeError(type(value))
