"""Tensors by name, one at a time, from files of safetensors or of ranks; and files of at most so many bytes of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from keepstep.formats.dcp_metadata import METADATA, Chunk, UnreadableMetadata
from keepstep.formats.dcp_tensors import DcpTensors, Torn
from keepstep.formats.safetensors_file import TensorSpec, plan_safetensors, stock_dtypes
from keepstep.formats.tensors import tensor_bytes
from keepstep.operations.export.errors import ExportRefused, Unreadable
from keepstep.operations.export.files import SHARDS
from keepstep.operations.export.plan import metadata_of
from keepstep.stores import open_as_directory

MODEL, ADAPTER = "model", "adapter_model"
"""Names of weights files, without their endings."""
OnBytes = Callable[[int], None]


class Tensors(Protocol):
    """Tensors by name, each read when it is asked for. A context manager."""

    @property
    def names(self) -> list[str]:
        """Names, in the order in which they are written."""
        ...

    def get(self, name: str) -> torch.Tensor:
        """A tensor in memory of its own."""
        ...

    def spec(self, name: str) -> TensorSpec:
        """Dtype, shape and bytes of a tensor, which is not read."""
        ...

    def __enter__(self) -> Tensors: ...

    def __exit__(self, *_: object) -> None: ...


def tensors_in(directory: Path) -> Tensors:
    """The weights in a directory: in files of safetensors, else as ranks wrote them. Raises Unreadable, OSError."""
    whole = weights_below(directory)
    shards = [] if whole else sorted(directory.glob(f"{SHARDS}/{METADATA}"))
    return ShardedFiles(shards[0].parent) if shards else TensorFiles(whole)


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

    def spec(self, name: str) -> TensorSpec:
        """Dtype, shape and bytes of a tensor, which is not read."""
        found = self._home[name].get_slice(name)
        return _spec(str(found.get_dtype()), tuple(found.get_shape()))


class ShardedFiles:
    """The tensors that ranks wrote into one directory, put together one at a time. A context manager."""

    def __init__(self, directory: Path) -> None:
        """Raises Unreadable, OSError."""
        self._directory = directory
        self._tensors = DcpTensors(directory, metadata_of(directory))

    def __enter__(self) -> ShardedFiles:
        self._tensors.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._tensors.__exit__()

    @property
    def names(self) -> list[str]:
        """Names, in the order of the model."""
        return list(self._tensors.tensors)

    def get(self, name: str) -> torch.Tensor:
        """A tensor in memory of its own. Raises Unreadable where a rank's file is damaged."""
        spec = self.spec(name)
        found = torch.empty(spec.shape, dtype=spec.dtype)
        try:
            self._tensors.read(name, tensor_bytes(found))
        except (Torn, UnreadableMetadata) as error:
            raise Unreadable(f"{self._directory}: {error}") from error
        return found

    def chunks(self, name: str) -> tuple[Chunk, ...]:
        """Which parts of a tensor lie where."""
        return self._tensors.tensors[name].chunks

    def spec(self, name: str) -> TensorSpec:
        """Dtype, shape and bytes of a tensor, which is not read."""
        tensor = self._tensors.tensors[name]
        return _spec(tensor.dtype, tensor.shape)


class Changed:
    """Other tensors, without some of them, and with floating ones cast to a dtype where one is given."""

    def __init__(self, tensors: Tensors, dtype: torch.dtype | None = None, without: Collection[str] = ()) -> None:
        self._tensors = tensors
        self._dtype = dtype
        self.names = [name for name in tensors.names if name not in without]

    def __enter__(self) -> Changed:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def get(self, name: str) -> torch.Tensor:
        """A tensor, cast. Raises ExportRefused where a value turns infinite."""
        return cast(name, self._tensors.get(name), self._dtype)

    def spec(self, name: str) -> TensorSpec:
        """Dtype, shape and bytes of a tensor, which is not read."""
        return cast_spec(self._tensors.spec(name), self._dtype)


def weights_below(directory: Path) -> list[Path]:
    """The safetensors files with weights that lie directly in a directory, by name."""
    return sorted(path for path in directory.glob("*.safetensors") if not path.name.startswith("keepstep"))


def write_shards(tensors: Tensors, directory: Path, stem: str, limit: int, on_bytes: OnBytes) -> None:
    """Write tensors in their order into files of at most `limit` bytes of tensors; an index where they are several.

    Names, index and bytes are those of stock writers: `model-00001-of-00002.safetensors`. A tensor that is larger than
    the limit has a file of its own. Memory is bounded by one tensor. An adapter is one file: PEFT reads no other.
    """
    shards = _shards({name: tensors.spec(name) for name in tensors.names}, limit)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        end = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        path = directory / f"{stem}{end}.safetensors"
        _write(path, tensors, shard, on_bytes)
        open_as_directory(path)
        weight_map |= dict.fromkeys(shard, path.name)
    if len(shards) == 1:
        return
    specs = [spec for shard in shards for spec in shard.values()]
    total, parameters = sum(spec.nbytes for spec in specs), sum(prod(spec.shape) for spec in specs)
    index = {
        "metadata": {"total_parameters": parameters, "total_size": total},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (directory / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write(path: Path, tensors: Tensors, shard: Mapping[str, TensorSpec], on_bytes: OnBytes) -> None:
    with open(path, "xb") as file:
        for piece in plan_safetensors(shard).pieces:
            if piece.source is None:
                file.write(piece.literal or b"")
                continue
            file.write(tensor_bytes(tensors.get(piece.source).contiguous()))
            on_bytes(piece.length)


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


def cast_spec(spec: TensorSpec, dtype: torch.dtype | None) -> TensorSpec:
    """What `cast` makes of a tensor of this spec."""
    if dtype is None or not spec.dtype.is_floating_point:
        return spec
    return TensorSpec(dtype, spec.shape, prod(spec.shape) * dtype.itemsize)


def _shards(specs: Mapping[str, TensorSpec], limit: int) -> list[dict[str, TensorSpec]]:
    found: list[dict[str, TensorSpec]] = [{}]
    size = 0
    for name, spec in specs.items():
        if found[-1] and size + spec.nbytes > limit:
            found.append({})
            size = 0
        found[-1][name] = spec
        size += spec.nbytes
    return found


def _spec(code: str, shape: tuple[int, ...]) -> TensorSpec:
    dtype = next((dtype for dtype, known in stock_dtypes().items() if known.code == code), None)
    if dtype is None:
        raise Unreadable(f"no file of safetensors holds {code}")
    return TensorSpec(dtype, shape, prod(shape) * dtype.itemsize)
