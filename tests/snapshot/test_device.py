"""Copies from a device. Without an accelerator the CPU plays it: its streams do nothing, its copies are real."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from keepstep.formats.tensors import flat_bytes
from keepstep.snapshot import device as device_module
from keepstep.snapshot.arena import Arena
from keepstep.snapshot.device import DeviceCopy
from keepstep.snapshot.piece import Copy
from keepstep.snapshot.staging import Staging, StateChangedError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("name", DEVICES)
def test_every_byte_arrives_in_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "CHUNK_BYTES", 1000)
    copier = DeviceCopy(torch.device(name))
    arena = Arena(2**20, pin=copier.pin, unpin=copier.unpin)
    tensors = [torch.randn(777, device=name), torch.randn(0, device=name), torch.arange(5, device=name)]
    sizes = [tensor.nbytes for tensor in tensors]
    memory = arena.reserve(sum(sizes))
    targets = [memory[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(3)]
    copier.begin()
    copier.copy(
        [Copy(str(i), flat_bytes(t), target) for i, (t, target) in enumerate(zip(tensors, targets, strict=True))]
    )
    copier.gate()
    copier.wait()
    assert [bytes(target) for target in targets] == [tensor.cpu().numpy().tobytes() for tensor in tensors]
    arena.reserve(sum(sizes) + 10_000)


@pytest.mark.parametrize("name", DEVICES)
def test_a_staging_brings_both_what_is_on_the_device_and_what_is_in_host_memory(name: str) -> None:
    weight, step = torch.randn(100, device=name), torch.tensor([7.0])
    targets = [memoryview(bytearray(weight.nbytes)), memoryview(bytearray(step.nbytes))]
    host = memoryview(step.numpy()).cast("B")
    pieces = [Copy("weight", flat_bytes(weight), targets[0]), Copy("step", host, targets[1])]
    staging = Staging(lambda: pieces, [("weight", weight)], check=True, device=DeviceCopy(torch.device(name)))
    staging.wait()
    before = weight.cpu().numpy().tobytes()
    weight.add_(1)  # behind the gate: the device does it after the copies
    staging.finish()
    assert bytes(targets[0]) == before and bytes(targets[1]) == step.numpy().tobytes()


def test_a_change_before_the_gate_is_found_on_a_device_too() -> None:
    weight = torch.randn(100)

    def plan() -> list[Copy]:
        weight.add_(1)
        return [Copy("weight", flat_bytes(weight), memoryview(bytearray(weight.nbytes)))]

    staging = Staging(plan, [("weight", weight)], device=DeviceCopy(torch.device("cpu")))
    staging.wait()
    with pytest.raises(StateChangedError, match="weight was changed"):
        staging.finish()


def test_flat_bytes_are_those_of_the_tensor_alone() -> None:
    whole = torch.arange(10, dtype=torch.int16)
    assert flat_bytes(whole[2:5]).numpy().tobytes() == whole[2:5].numpy().tobytes()
    assert flat_bytes(whole.untyped_storage()).numel() == 20
    with pytest.raises(ValueError, match="contiguous"):
        flat_bytes(whole[::2])
