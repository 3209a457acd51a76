"""What `safetensors.safe_open` gives, over tensors in memory."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError

from keepstep.formats.safetensors_file import LENGTH_BYTES, RESERVED, header_bytes, read_header


class OpenedTensors:
    """A safetensors file that is open for reading by name. Tensors are given as copies, as the library gives them."""

    def __init__(self, tensors: dict[str, torch.Tensor], image: memoryview, device: Any) -> None:
        self._tensors = tensors
        self._device = device
        self._entries = read_header(image)
        header = json.loads(bytes(image[LENGTH_BYTES : LENGTH_BYTES + header_bytes(image)]))
        self._metadata: dict[str, str] | None = header.get(RESERVED)

    def __enter__(self) -> OpenedTensors:
        return self

    def __exit__(self, *_: object) -> None:
        self._tensors = {}

    def keys(self) -> list[str]:
        """Names in the order of the library: sorted."""
        return sorted(self._tensors)

    def offset_keys(self) -> list[str]:
        """Names in the order of the file."""
        return sorted(self._tensors, key=lambda name: self._entries[name]["data_offsets"])

    def metadata(self) -> dict[str, str] | None:
        """What the header says beside the tensors."""
        return self._metadata

    def get_tensor(self, name: str) -> torch.Tensor:
        """A tensor by name, on the device that was asked for."""
        return self._named(name).to(self._device, copy=True)

    def get_tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name."""
        return {name: self.get_tensor(name) for name in self.keys()}

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor of which parts can be taken."""
        return TensorSlice(self._named(name), self._entries[name]["dtype"], self._device)

    def _named(self, name: str) -> torch.Tensor:
        if name not in self._tensors:
            raise SafetensorError(f"File does not contain tensor {name}")
        return self._tensors[name]


class TensorSlice:
    """A tensor by its shape, dtype and parts."""

    def __init__(self, tensor: torch.Tensor, dtype: str, device: Any) -> None:
        self._tensor = tensor
        self._dtype = dtype
        self._device = device

    def get_shape(self) -> list[int]:
        """Elements in each dimension."""
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        """The dtype as the header names it: `F32`, `BF16`."""
        return self._dtype

    def __getitem__(self, part: Any) -> torch.Tensor:
        return self._tensor[part].to(self._device, copy=True)
