"""Files as the room lays them out, in memory or on disk."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch

from keepstep.formats.digests import crc32
from keepstep.formats.direct import Written, write_file
from keepstep.formats.layout import FileLayout
from keepstep.formats.safetensors_file import TensorSpec, plan_safetensors
from keepstep.formats.tensors import storage_bytes, tensor_bytes
from keepstep.formats.torch_file import TorchPlan, plan_torch

BIG = 2_000_000
"""Elements of a tensor that spans file chunks together with a few of its kind."""


def assemble(layout: FileLayout, sources: Mapping[str, memoryview]) -> bytes:
    """A layout's bytes, the plainest way."""
    out, checksums, position = [], {}, 0
    for piece in layout.pieces:
        assert piece.offset == position
        if piece.source is not None:
            data = bytes(sources[piece.source])
            checksums[piece.source] = crc32(data, 0)
        elif piece.literal is not None:
            data = piece.literal
        else:
            assert piece.late is not None
            data = piece.late(checksums)
        assert len(data) == piece.length
        position += piece.length
        out.append(data)
    assert position == layout.size
    return b"".join(out)


def storages_of(plan: TorchPlan) -> dict[str, memoryview]:
    return {name: storage_bytes(storage) for name, storage in plan.storages.items()}


def torch_bytes(plan: TorchPlan) -> bytes:
    return assemble(plan.layout, storages_of(plan))


def stock_torch_bytes(obj: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    return buffer.getvalue()


def write_torch(path: Path, obj: object) -> Written:
    plan = plan_torch(obj)
    return write_file(path, plan.layout, storages_of(plan))


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> Written:
    layout = plan_safetensors({name: TensorSpec.of(tensor) for name, tensor in tensors.items()})
    return write_file(path, layout, {name: tensor_bytes(t) for name, t in tensors.items() if t.numel()})


def adamw_state(parameters: int = 5, *, lr: float = 1e-3, numel: int = 1000) -> dict:
    """An optimizer's state dict; nothing in it is random."""
    state = {
        index: {
            "step": torch.tensor(float(index)),
            "exp_avg": torch.arange(numel + index, dtype=torch.float32),
            "exp_avg_sq": torch.arange(numel + index, dtype=torch.float32) * 0.5,
        }
        for index in range(parameters)
    }
    return {"state": state, "param_groups": [{"lr": lr, "betas": (0.9, 0.999), "params": list(range(parameters))}]}


def flip(path: Path, offset: int) -> None:
    """Flip one bit of one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def same(one: object, other: object) -> bool:
    """Equal nested objects, tensors by dtype, shape and bits."""
    if isinstance(one, torch.Tensor):
        alike = isinstance(other, torch.Tensor) and (one.dtype, one.shape) == (other.dtype, other.shape)
        return alike and torch.equal(one.contiguous().view(-1), other.contiguous().view(-1))
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return (
            isinstance(other, type(one))
            and len(one) == len(other)
            and all(same(a, b) for a, b in zip(one, other, strict=True))
        )
    return bool(one == other)
