"""Tensors of safetensors files by name, one at a time, and files of at most so many bytes written from them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from keepstep.operations.export.errors import ExportRefused
from keepstep.stores import open_as_directory

MODEL, ADAPTER = "model", "adapter_model"
"""Names of weights files, without their endings."""
OnBytes = Callable[[int], None]


class TensorFiles:
    """The tensors of several safetensors files; nothing is read before it is asked for. A context manager."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._stack = ExitStack()
        self._home: dict[str, Any] = {}

    def __enter__(self) -> TensorFiles:
        for path in self._paths:
            opened = self._stack.enter_context(safe_open(path, framework="pt"))
            self._home |= dict.fromkeys(opened.keys(), opened)
        return self

    def __exit__(self, *_: object) -> None:
        self._home = {}
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """Names, file by file."""
        return list(self._home)

    def get(self, name: str) -> torch.Tensor:
        """A tensor in memory of its own."""
        return self._home[name].get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not read."""
        return tuple(self._home[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The dtype of a tensor as the header names it: `BF16`; it is not read."""
        return str(self._home[name].get_slice(name).get_dtype())


def weights_below(directory: Path) -> list[Path]:
    """The safetensors files that lie directly in a directory, by name."""
    return sorted(directory.glob("*.safetensors"))


def write_shards(
    tensors: Iterable[tuple[str, torch.Tensor]], directory: Path, stem: str, limit: int, on_bytes: OnBytes
) -> None:
    """Write tensors in their order into files of at most `limit` bytes of tensors; an index where they are several.

    Names and index are those of stock writers: `model-00001-of-00002.safetensors`. A tensor that is larger than the
    limit has a file of its own. Memory is bounded by one file. An adapter is one file always: PEFT reads no other.
    """
    written: list[tuple[Path, list[str]]] = []
    total = parameters = 0
    for number, shard in enumerate(_shards(tensors, limit), start=1):
        path = directory / f"{stem}-{number:05d}.safetensors"
        size = sum(_nbytes(tensor) for tensor in shard.values())
        total, parameters = total + size, parameters + sum(tensor.numel() for tensor in shard.values())
        with storage_errors():
            save_file(shard, path, metadata={"format": "pt"})
        open_as_directory(path)
        on_bytes(size)
        written.append((path, list(shard)))
    if len(written) == 1:
        written[0][0].rename(directory / f"{stem}.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, (path, names) in enumerate(written, start=1):
        final = f"{stem}-{number:05d}-of-{len(written):05d}.safetensors"
        path.rename(directory / final)
        weight_map |= dict.fromkeys(names, final)
    index = {
        "metadata": {"total_parameters": parameters, "total_size": total},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (directory / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


@contextmanager
def storage_errors() -> Iterator[None]:
    """Errors of the disk under safetensors as what they are: an OSError with its number."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"(?:os error|code:) (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def cast(name: str, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A floating tensor in another dtype; any other as it is. Raises ExportRefused where a value turns infinite."""
    if dtype is None or not tensor.is_floating_point() or tensor.dtype is dtype:
        return tensor
    found = tensor.to(dtype)
    if torch.isfinite(found).all() or bool((torch.isfinite(tensor) == torch.isfinite(found)).all()):
        return found
    largest = float(tensor[torch.isfinite(tensor)].abs().max())
    raise ExportRefused(
        f"{name} does not fit into {str(dtype).removeprefix('torch.')}: its largest value is {largest:.6g}, "
        f"the largest that fits is {torch.finfo(dtype).max:.6g}",
        hint="Export it in bf16 or fp32.",
    )


def _shards(tensors: Iterable[tuple[str, torch.Tensor]], limit: int) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + _nbytes(tensor) > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.contiguous()
        size += _nbytes(tensor)
    yield shard


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
