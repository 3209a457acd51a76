"""Nested Python objects with tensors, laid out byte for byte as `torch.save` writes them to an open file."""

from __future__ import annotations

import pickle
import struct
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.serialization import skip_data

from keepstep.formats.layout import FileLayout, UnsupportedTensorError
from keepstep.formats.torch_zip import HoleySink, TorchZip


class TorchPlan(NamedTuple):
    """A file to be written: its layout, and the live storage for each of the layout's sources.

    Storages may lie on any device; the caller copies `storages[name].nbytes()` bytes of each to host memory.
    """

    layout: FileLayout
    storages: dict[str, torch.UntypedStorage]


def plan_torch(obj: object) -> TorchPlan:
    """The layout of `torch.save(obj, file)`: shared storages once, views with the whole storage under them, as stock.

    Raises UnsupportedTensorError when torch.save has to see the data (quantized tensors) or there is none (fake
    ones), when it can't pickle the object at all, or writes in a way unknown here.
    """
    skeleton, storages = skeleton_of(obj)
    return TorchPlan(skeleton.layout, storages)


def skeleton_of(obj: object) -> tuple[TorchZip, dict[str, torch.UntypedStorage]]:
    """The zip that `torch.save` writes around holes, and the storages that belong into them; raises as `plan_torch`."""
    sink, recorder = HoleySink(), _Recorder()
    try:
        with skip_data():
            torch.save(obj, sink, pickle_module=recorder.module)  # pyright: ignore[reportArgumentType]
    except (RuntimeError, AttributeError, TypeError, pickle.PicklingError) as error:
        raise UnsupportedTensorError(f"torch.save can't pickle this without the data: {error}") from error
    storages = {f"data/{key}": storage for key, storage in recorder.storages.items() if storage.nbytes()}
    for name, storage in storages.items():
        if storage.device.type == "meta":
            raise UnsupportedTensorError(f"{name} has no bytes: it lies on the meta device")
    try:
        skeleton = TorchZip(sink.parts)
    except (ValueError, IndexError, struct.error) as error:
        raise UnsupportedTensorError(f"torch.save writes an unknown layout: {error}") from error
    if skeleton.layout.lengths != {name: storage.nbytes() for name, storage in storages.items()}:
        raise UnsupportedTensorError("torch.save wrote other storages than it pickled")
    return skeleton, storages


class _Recorder:
    """A pickle module for `torch.save` that keeps the storages by key.

    torch derives its pickler from `module.Pickler` and gives it a `persistent_id`; that is where keys are assigned.
    """

    def __init__(self) -> None:
        self.storages: dict[str, torch.UntypedStorage] = {}
        self.module: Any = types.SimpleNamespace(Pickler=self._pickler(), __name__="pickle")

    def _pickler(self) -> type[pickle.Pickler]:
        storages = self.storages

        class Pickler(pickle.Pickler):
            def __init_subclass__(cls) -> None:
                cls.persistent_id = _keeping(cls.persistent_id, storages)

        return Pickler


def _keeping(original: Callable[..., Any], storages: dict[str, torch.UntypedStorage]) -> Callable[..., Any]:
    def persistent_id(self: object, obj: object) -> object:
        if not isinstance(obj, (torch.storage.TypedStorage, torch.UntypedStorage)):
            return None
        identity = original(self, obj)
        storages[identity[2]] = obj._untyped_storage if isinstance(obj, torch.storage.TypedStorage) else obj
        return identity

    return persistent_id
