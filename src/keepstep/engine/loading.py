"""Stock loaders run on the bytes that were verified: what is held in memory is not read from the disk again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import safetensors
import safetensors.torch
import torch

from keepstep.engine.holding import HeldFiles
from keepstep.engine.opened import OpenedTensors
from keepstep.engine.places import Place, standing_in
from keepstep.formats.image import ImageFile, is_zip, objects_of, tensors_of


@contextmanager
def served(held: HeldFiles, load_file: Iterable[Place], safe_open: Iterable[Place]) -> Iterator[None]:
    """While it lasts, stock loaders that are asked for a file that is held get its tensors from memory.

    `load_file` and `safe_open` are the places of safetensors' functions of these names. `load_file` and `torch.load`
    take the bytes over, once: the tensors are views of them where they can be. A file that is not held is loaded as
    ever.
    """
    with (
        standing_in(load_file, _load_file(held)),
        standing_in(safe_open, _safe_open(held)),
        standing_in([("torch", "load")], _torch_load(held)),
    ):
        yield


def _load_file(held: HeldFiles) -> Any:
    stock = safetensors.torch.load_file

    def load_file(filename: Any, device: Any = "cpu", **options: Any) -> dict[str, torch.Tensor]:
        image = held.take(filename)
        if image is None:
            return stock(filename, device, **options)
        return {name: tensor.to(device) for name, tensor in _tensors(image).items()}

    return load_file


def _safe_open(held: HeldFiles) -> Any:
    stock = safetensors.safe_open

    def safe_open(filename: Any, framework: str, device: Any = "cpu", **options: Any) -> Any:
        image = held.get(filename) if framework in ("pt", "torch", "pytorch") else None
        if image is None:
            return stock(filename, framework, device, **options)
        return OpenedTensors(_tensors(image), image, device)

    return safe_open


def _torch_load(held: HeldFiles) -> Any:
    stock = torch.load

    def load(
        f: Any, map_location: Any = None, pickle_module: Any = None, *, weights_only: Any = None, mmap: Any = None,
        **options: Any,
    ) -> Any:  # fmt: skip
        if isinstance(map_location, (str, torch.device)) and torch.device(map_location).type == "cpu":
            map_location = (
                "cpu"  # transformers 4 says cpu:0 where several processes train, and torch knows no such place
            )
        image = held.take(f)
        if image is None:
            return stock(f, map_location, pickle_module, weights_only=weights_only, mmap=mmap, **options)
        if map_location == "cpu" and weights_only and pickle_module is None and not options and is_zip(image):
            return objects_of(image)
        given: Any = ImageFile(image)
        return stock(given, map_location, pickle_module, weights_only=weights_only, **options)

    return load


def _tensors(image: memoryview) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; of one that can't be taken as it lies, the copies that the library makes."""
    try:
        return tensors_of(image)
    except ValueError:
        return safetensors.torch.load(bytes(image))
