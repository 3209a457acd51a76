"""A file's bytes in memory, and its tensors as views of them: nothing is read or copied a second time."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from torch.serialization import skip_data

from keepstep.formats.safetensors_file import LENGTH_BYTES, header_bytes, read_header, stock_dtypes
from keepstep.formats.tensors import storage_over

LOCAL_HEAD = 30
ZIP_MAGIC = b"PK\x03\x04"


def tensors_of(image: memoryview) -> dict[str, torch.Tensor]:
    """What `safetensors.torch.load_file` returns of a file with these bytes, each tensor a storage of its own there.

    The image (writable) lives as long as any of the tensors, and changes with them. Raises ValueError when it is no
    safetensors file, or has a dtype that torch or the installed library can't store.
    """
    if image.nbytes < LENGTH_BYTES or LENGTH_BYTES + header_bytes(image) > image.nbytes:
        raise ValueError("too short for a safetensors file")
    base = LENGTH_BYTES + header_bytes(image)
    dtypes = {stock.code: dtype for dtype, stock in stock_dtypes().items()}
    found: dict[str, torch.Tensor] = {}
    for name, entry in read_header(image).items():
        begin, end = (base + offset for offset in entry["data_offsets"])
        if entry["dtype"] not in dtypes or not base <= begin <= end <= image.nbytes:
            raise ValueError(f"{name} is a {entry['dtype']} of the bytes {begin:,} to {end:,}, which can't be taken")
        found[name] = _tensor(image[begin:end], dtypes[entry["dtype"]], entry["shape"])
    return found


def objects_of(image: memoryview) -> Any:
    """What `torch.load(path, map_location="cpu", weights_only=True)` returns of a zip file with these bytes.

    Each storage is a view of its own of the image (writable), which lives as long as any of them. Raises what
    torch.load raises, ValueError when the storages are not in the order of the pickle.
    """
    given: Any = ImageFile(image)
    place: Any = _placing(image)
    with skip_data():
        return torch.load(given, map_location=place, weights_only=True)


def is_zip(image: memoryview) -> bool:
    """True when a torch file has the layout that `objects_of` takes; torch's older one is no zip."""
    return bytes(image[: len(ZIP_MAGIC)]) == ZIP_MAGIC


class ImageFile(io.RawIOBase):
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


def _tensor(view: memoryview, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    flat = torch.empty(0, dtype=torch.uint8).set_(storage_over(view))  # pyright: ignore[reportArgumentType]
    if flat.data_ptr() % dtype.itemsize:  # a header of another writer may end anywhere
        flat = flat.clone()
    return flat.view(dtype).view(shape)


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
    with zipfile.ZipFile(ImageFile(image)) as archive:
        for info in archive.infolist():
            _, _, name = info.filename.partition("/")
            if info.file_size and name.startswith("data/"):
                lengths = struct.unpack_from("<HH", image, info.header_offset + LOCAL_HEAD - 4)
                start = info.header_offset + LOCAL_HEAD + sum(lengths)
                found.append((int(name.removeprefix("data/")), image[start : start + info.file_size]))
    return [view for _, view in sorted(found, key=lambda item: item[0])]
