"""The header of a safetensors file as plain values, without torch. Format: https://github.com/huggingface/safetensors#format."""

from __future__ import annotations

import json
import os
from math import prod
from typing import Any, NamedTuple

RESERVED = "__metadata__"
LENGTH_BYTES = 8
LONGEST = 100 * 2**20
"""Bytes of JSON that the library itself accepts at most."""
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
"""Bits of one element, by the header's name of its dtype."""
FLOATING = frozenset({"F16", "BF16", "F32", "F64"})
"""Dtypes that a cast of the weights applies to."""


class TensorEntry(NamedTuple):
    """What the header says of a tensor: its dtype by the header's name, its shape in elements."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    def nbytes(self, floating: str | None = None) -> int:
        """Bytes of the tensor, with floating ones cast to another dtype where that is given."""
        dtype = floating if floating and self.dtype in FLOATING else self.dtype
        return self.elements * BITS.get(dtype, 8) // 8


def read_header(start: bytes | memoryview) -> dict[str, dict[str, Any]]:
    """The entries by name from a file's first bytes, metadata left out. Raises ValueError when it is no header."""
    header: Any = json.loads(bytes(start[LENGTH_BYTES : LENGTH_BYTES + header_bytes(start)]))
    if not isinstance(header, dict):
        raise ValueError("the safetensors header is no JSON object")
    header.pop(RESERVED, None)  # pyright: ignore[reportUnknownMemberType]
    return header  # pyright: ignore[reportUnknownVariableType]


def header_bytes(start: bytes | memoryview) -> int:
    """Length in bytes of the JSON header, from a file's first eight bytes."""
    return int.from_bytes(start[:LENGTH_BYTES], "little")


def tensors_in(path: str | os.PathLike[str]) -> dict[str, TensorEntry]:
    """The tensors of a file by name. Raises OSError, ValueError for what is no safetensors file."""
    _, entries = raw_entries(path)
    try:
        return {name: TensorEntry(str(e["dtype"]), tuple(map(int, e["shape"]))) for name, e in entries.items()}
    except (KeyError, TypeError) as error:
        raise ValueError("has a header that is not one of safetensors") from error


def raw_entries(path: str | os.PathLike[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    """Where the data begins in a file, in bytes, and the header's entries by name. Raises as `tensors_in` does."""
    with open(path, "rb") as file:
        start = file.read(LENGTH_BYTES)
        if len(start) < LENGTH_BYTES or header_bytes(start) > LONGEST:
            raise ValueError("is no safetensors file")
        length = header_bytes(start)
        return LENGTH_BYTES + length, read_header(start + file.read(length))
