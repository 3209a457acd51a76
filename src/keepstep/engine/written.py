"""Which tensors a save's writers were given, known by the memory that they lie in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from keepstep.engine.places import Place, standing_in
from keepstep.stores import open_as_directory

Memory = tuple[int, int, tuple[int, ...], tuple[int, ...], torch.dtype]
"""Address of a storage, and offset, shape, stride and dtype of a tensor there: the same memory, the same values."""


def memory_of(tensor: torch.Tensor) -> Memory | None:
    """Where a tensor's values lie; None where nothing does: it is empty, on the meta device, or only looks like one."""
    try:
        address = tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return None
    if not address or not tensor.numel():
        return None
    return address, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), tensor.dtype


class Written:
    """What the writers of one save were given.

    `places` has file and key of each tensor, by the memory that it lies in; `keys` the keys of all files.
    """

    def __init__(self) -> None:
        self.places: dict[Memory, tuple[Path, str]] = {}
        self.keys: set[str] = set()

    def note(self, path: Path, tensors: Mapping[Any, Any]) -> None:
        """Take down the tensors of a file, those in dictionaries and lists inside of it too."""
        self.keys.update(str(key) for key in tensors)
        for key, value in tensors.items():
            self._note(path, str(key), value)

    def _note(self, path: Path, key: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            memory = memory_of(value)
            if memory is not None:
                self.places.setdefault(memory, (path, key))
        elif isinstance(value, Mapping):
            self.note(path, value)
        elif isinstance(value, torch.nn.Module):
            self.note(path, value.state_dict(keep_vars=True))
        elif isinstance(value, (list, tuple)):
            for item in value:
                self._note(path, key, item)

    def holds(self, tensor: torch.Tensor) -> bool:
        """True when the tensor's values are in a file as they are in memory, under whatever name."""
        return memory_of(tensor) in self.places


@contextmanager
def noting(save_file: Iterable[Place]) -> Iterator[Written]:
    """While it lasts, what is given to `safetensors.torch.save_file`, found at its places, and `torch.save` is noted.

    It is handed on to whatever stands there: the libraries' own functions, or those that record.
    """
    written = Written()
    save_tensors, save_objects = safetensors.torch.save_file, torch.save

    def note_tensors(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> None:
        written.note(Path(filename), tensors)
        save_tensors(tensors, filename, *args, **kwargs)
        open_as_directory(Path(filename))  # it makes files for their owner alone

    def note_objects(value: Any, target: Any, *args: Any, **kwargs: Any) -> None:
        name = target if isinstance(target, (str, os.PathLike)) else getattr(target, "name", "")
        written.note(Path(str(name)), value if isinstance(value, Mapping) else {"": value})
        save_objects(value, target, *args, **kwargs)

    with standing_in(save_file, note_tensors), standing_in([("torch", "save")], note_objects):
        yield written
