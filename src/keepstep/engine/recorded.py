"""Stock writers run for their names and small files; what holds tensors is recorded, not written."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from keepstep.engine.places import Place, standing_in

Tensors = Mapping[str, torch.Tensor]


@dataclass(slots=True)
class Recorded:
    """What would have been written, by path.

    `safetensors` has tensors with the file's metadata, `torch` objects of `torch.save`, `small` bytes of small files.
    """

    safetensors: dict[Path, tuple[Tensors, Mapping[str, str] | None]] = field(default_factory=dict[Path, Any])
    torch: dict[Path, Any] = field(default_factory=dict[Path, Any])
    small: dict[Path, bytes] = field(default_factory=dict[Path, bytes])

    @property
    def is_empty(self) -> bool:
        """True when nothing was recorded."""
        return not (self.safetensors or self.torch or self.small)

    def move(self, old: Path, new: Path) -> None:
        """Let what was recorded below one directory belong to another."""
        self.safetensors = {new / path.relative_to(old): value for path, value in self.safetensors.items()}
        self.torch = {new / path.relative_to(old): value for path, value in self.torch.items()}
        self.small = {new / path.relative_to(old): value for path, value in self.small.items()}

    def write_small(self) -> None:
        """Write the small files where they belong."""
        for path, data in self.small.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@contextmanager
def recording(directory: Path, save_file: Iterable[Place], torch_files: Collection[str]) -> Iterator[Recorded]:
    """While it lasts, calls that would write the state's tensors below a directory are recorded.

    What goes anywhere else is written as ever. `save_file` are the places of `safetensors.torch.save_file`;
    `torch_files` the names of the files of `torch.save` that hold tensors of the state: its others are small, and
    written as ever.
    """
    recorded = Recorded()
    stock_save_file, stock_save = safetensors.torch.save_file, torch.save

    def record(tensors: Tensors, filename: Any, metadata: Mapping[str, str] | None = None) -> None:
        if Path(filename).is_relative_to(directory):
            recorded.safetensors[Path(filename)] = (dict(tensors), metadata)
        else:
            stock_save_file(dict(tensors), filename, None if metadata is None else dict(metadata))

    def save(value: Any, target: Any, *args: Any, **kwargs: Any) -> None:
        named = isinstance(target, (str, os.PathLike)) and Path(target).name in torch_files
        if named and Path(target).is_relative_to(directory):
            recorded.torch[Path(target)] = value
        else:
            stock_save(value, target, *args, **kwargs)

    with standing_in(save_file, record), standing_in([("torch", "save")], save):
        yield recorded
