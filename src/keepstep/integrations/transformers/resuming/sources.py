"""Where a checkpoint has the value of each live tensor, and how it gets there: by name, a copy, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch

from keepstep.engine import memory_of
from keepstep.formats.safetensors_header import tensors_in
from keepstep.integrations.transformers.resuming.converted import convert, copied
from keepstep.integrations.transformers.resuming.trained import EXTRA_NAME, adapted, bare, live_tensors, trained

Files = Mapping[Path, Mapping[str, torch.Tensor]]
"""Files with tensors, and for their keys, as a model has them that is not compiled, the live tensor of each."""


class Source(NamedTuple):
    """Where the value of a live tensor lies: a file, and its key there."""

    live: torch.Tensor
    path: Path
    key: str


class Sources:
    """What the files of a checkpoint hold for a model: `lacking` names what trains and is in none in its shape here."""

    def __init__(self, model: Any, directory: Path, files: Files) -> None:
        self._model = model
        self._directory = directory
        self._opened: dict[Path, dict[str, torch.Tensor]] = {}
        self._paths = list(files)
        self._sources = [source for path, targets in files.items() for source in self._find(path, targets)]
        self.lacking = self.not_in_files(trained(model))

    def not_in_files(self, names: Iterable[str]) -> list[str]:
        """Those of the names of live tensors whose values are in none of the files in their shape here."""
        extra = self._directory / EXTRA_NAME
        entries = tensors_in(extra) if extra.is_file() else {}
        found = {memory_of(source.live) for source in self._sources}
        live = live_tensors(self._model)
        return [
            name
            for name in names
            if name in live
            and live[name].numel()
            and (memory_of(live[name]) or 0) not in found
            and not (name in entries and entries[name].shape == tuple(live[name].shape))
        ]

    def load(self) -> None:
        """Copy every value into the live tensor that it belongs to: shapes, dtypes and what trains stay as they are."""
        with torch.no_grad():
            for live, path, key in self._sources:
                live.copy_(self._open(path)[key])

    def convert(self) -> None:
        """Copy what is lacking from what the library makes of the files; then it is lacking no more."""
        live = live_tensors(self._model)

        def put(name: str, value: torch.Tensor) -> None:
            if name in self.lacking:
                with torch.no_grad():
                    live[name].copy_(value)
                self.lacking.remove(name)

        if adapted(self._model):
            return
        if self.lacking:
            convert(self._model, {k: t for path in self._paths for k, t in self._open(path).items()}, put)
        if self.lacking:
            copied(self._model, self._directory, put)

    def _find(self, path: Path, targets: Mapping[str, torch.Tensor]) -> Iterator[Source]:
        for key, shape in self._shapes(path).items():
            live = targets.get(bare(key))
            if live is not None and tuple(live.shape) == shape:
                yield Source(live, path, key)

    def _shapes(self, path: Path) -> dict[str, tuple[int, ...]]:
        """The keys of a file, with shapes; of a safetensors file the header alone is read."""
        if path.suffix == ".bin":
            return {key: tuple(value.shape) for key, value in self._open(path).items()}
        return {key: entry.shape for key, entry in tensors_in(path).items()}

    def _open(self, path: Path) -> dict[str, torch.Tensor]:
        if path not in self._opened:
            if path.suffix == ".bin":
                self._opened[path] = torch.load(path, map_location="cpu", weights_only=True)
            else:
                self._opened[path] = safetensors.torch.load_file(path)
        return self._opened[path]
