"""Stock loaders run on the bytes that were verified: what is held in memory is not read from the disk again."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors
import safetensors.torch
import torch

from keepstep.errors import CheckpointCorrupt
from keepstep.formats.image import ImageFile, is_zip, objects_of, tensors_of
from keepstep.integrations.transformers.holding import HeldFiles
from keepstep.integrations.transformers.opened import OpenedTensors
from keepstep.manifest import MANIFEST_NAME
from keepstep.repository import Repository
from keepstep.stores import LocalStore

_LOAD_FILE = (
    ("safetensors.torch", "load_file"),
    ("transformers.trainer_utils", "safe_load_file"),
    ("transformers.modeling_utils", "safe_load_file"),
    ("peft.utils.save_and_load", "safe_load_file"),
    ("accelerate.utils.modeling", "safe_load_file"),
)
"""Where stock code looks up `safetensors.torch.load_file`: module and name there."""
_SAFE_OPEN = (
    *("safetensors", "safetensors.torch", "transformers.modeling_utils", "transformers.modeling_layers"),
    *("peft.peft_model", "accelerate.utils.modeling"),
)
"""Modules where stock code looks up `safetensors.safe_open`."""


@contextmanager
def serving(held: HeldFiles) -> Iterator[None]:
    """While it lasts, stock loaders that are asked for a file that is held get its tensors from memory.

    `load_file` and `torch.load` take the bytes over, once: the tensors are views of them where they can be. A file
    that is not held is loaded as ever.
    """
    with ExitStack() as replaced:
        for module, name in _LOAD_FILE:
            _replace(replaced, module, name, _load_file(held))
        for module in _SAFE_OPEN:
            _replace(replaced, module, "safe_open", _safe_open(held))
        replaced.enter_context(patch.object(torch, "load", _torch_load(held)))
        yield


@contextmanager
def verified(path: str | os.PathLike[str]) -> Iterator[str]:
    """Verify a checkpoint while it is read; inside, `from_pretrained` and stock loaders get its weights from memory.

    Yields the path: `with verified("runs/sft/checkpoint-300") as path: AutoModel.from_pretrained(path)`. Each weights
    file is read once. Raises OSError without a manifest, CheckpointCorrupt when it is damaged.
    """
    directory = Path(os.path.abspath(path))
    if not (directory / MANIFEST_NAME).is_file():
        raise FileNotFoundError(f"{directory} has no {MANIFEST_NAME}: there is nothing to verify it by")
    checkpoint = Repository(LocalStore(directory.parent), "").read_manifest(directory.name)
    held = HeldFiles()
    verification = held.check_weights(checkpoint)
    if not verification.ok:
        problems = "; ".join(map(str, verification.problems))
        raise CheckpointCorrupt(f"{directory} is damaged: {problems}", hint="Load another checkpoint.")
    try:
        with serving(held):
            yield str(directory)
    finally:
        held.clear()


def loads_whole_files(trainer: Any) -> bool:
    """Whether a trainer loads its state by the stock loaders: DeepSpeed and FSDP have their own."""
    return not (getattr(trainer, "is_deepspeed_enabled", False) or getattr(trainer, "is_fsdp_enabled", False))


def _replace(replaced: ExitStack, module: str, name: str, value: Any) -> None:
    if hasattr(sys.modules.get(module), name):
        replaced.enter_context(patch.object(sys.modules[module], name, value))


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
