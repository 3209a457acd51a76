"""safetensors files, laid out byte for byte as the installed safetensors library writes them.

Format: https://github.com/huggingface/safetensors#format. Eight bytes of length (little endian), a JSON header padded
with spaces to a multiple of eight, then the tensors without gaps, by dtype (largest alignment first) and name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
from safetensors.torch import save

from keepstep.formats.layout import FileLayout, LayoutBuilder, UnsupportedTensorError
from keepstep.formats.safetensors_header import LENGTH_BYTES, RESERVED, header_bytes, read_header

__all__ = [
    "LENGTH_BYTES", "RESERVED", "STOCK_METADATA", "TensorSpec", "header_bytes", "plan_safetensors", "read_header",
    "stock_dtypes",
]  # fmt: skip

STOCK_METADATA = {"format": "pt"}
"""What transformers and peft put into the header."""
_CANDIDATES = (
    *("uint64", "int64", "float64", "complex64", "float32", "uint32", "int32", "bfloat16", "float16", "uint16"),
    *("int16", "float8_e5m2fnuz", "float8_e4m3fnuz", "float8_e8m0fnu", "float8_e4m3fn", "float8_e5m2"),
    *("int8", "uint8", "bool"),
)


class TensorSpec(NamedTuple):
    """What the header says of a tensor: torch dtype, shape in elements, size in bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    nbytes: int

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorSpec:
        """The spec of a tensor, on whatever device."""
        return cls(tensor.dtype, tuple(tensor.shape), tensor.numel() * tensor.element_size())


def plan_safetensors(
    tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = STOCK_METADATA
) -> FileLayout:
    """The layout of what `safetensors.torch.save_file` writes from tensors of these specs; sources have their names.

    With more than one metadata key the library's own order is random; here it is the given one.
    Raises UnsupportedTensorError for a dtype that the library can't store or stores in another shape, and for the
    reserved name.
    """
    dtypes = stock_dtypes()
    for name, spec in tensors.items():
        if spec.dtype not in dtypes:
            raise UnsupportedTensorError(f"{name}: safetensors files here hold no {spec.dtype}")
        if name == RESERVED:
            raise UnsupportedTensorError(f"{RESERVED} is no name for a tensor in a safetensors file")
    ordered = sorted(tensors.items(), key=lambda item: (dtypes[item[1].dtype].rank, item[0]))
    builder = LayoutBuilder()
    builder.literal(_header(ordered, metadata, dtypes))
    for name, spec in ordered:
        builder.source(name, spec.nbytes)
    return builder.build()


class StockDtype(NamedTuple):
    """A dtype in the header: its name there, and its place in the file's order (0 first)."""

    code: str
    rank: int


@cache
def stock_dtypes() -> dict[torch.dtype, StockDtype]:
    """The dtypes of the installed library, learnt from a file that it writes."""
    probes: dict[str, torch.Tensor] = {}
    for name in _CANDIDATES:
        dtype = getattr(torch, name, None)
        if dtype is None:
            continue
        probe = {name: torch.zeros(1, dtype=torch.uint8).expand(16).contiguous().view(dtype)}
        try:
            save(probe)
        except (KeyError, ValueError, RuntimeError):
            continue
        probes |= probe
    entries = read_header(save(probes))
    ranked = sorted(entries, key=lambda name: entries[name]["data_offsets"])
    return {getattr(torch, name): StockDtype(entries[name]["dtype"], rank) for rank, name in enumerate(ranked)}


def _header(
    ordered: list[tuple[str, TensorSpec]], metadata: Mapping[str, str] | None, dtypes: dict[torch.dtype, StockDtype]
) -> bytes:
    members: dict[str, object] = {} if metadata is None else {RESERVED: dict(metadata)}
    end = 0
    for name, spec in ordered:
        start, end = end, end + spec.nbytes
        members[name] = {"dtype": dtypes[spec.dtype].code, "shape": list(spec.shape), "data_offsets": [start, end]}
    text = json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
