"""The gate: nothing passes before the copy is made, or, without room for one, before the state is written."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import pytest

pytest.importorskip("torch")

import torch

from keepstep.formats.tensors import tensor_bytes
from keepstep.snapshot import staging as staging_module
from keepstep.snapshot.piece import Copy
from keepstep.snapshot.staging import Staging, StateChangedError


def _pieces(tensor: torch.Tensor, target: bytearray) -> list[Copy]:
    return [Copy("weight", tensor_bytes(tensor), memoryview(target))]


def _passes(staging: Staging, within: float = 0.2) -> bool:
    waiting = threading.Thread(target=staging.wait, daemon=True)
    waiting.start()
    waiting.join(within)
    return not waiting.is_alive()


def _complete(staging: Staging) -> None:
    staging.finish()
    with staging.writing():
        pass


def test_the_gate_opens_when_the_copy_is_made() -> None:
    tensor, target, may_plan = torch.arange(8, dtype=torch.int64), bytearray(64), threading.Event()

    def plan() -> Sequence[Copy]:
        may_plan.wait(10)
        return _pieces(tensor, target)

    staging = Staging(plan, [("weight", tensor)])
    assert not _passes(staging)
    may_plan.set()
    staging.wait()
    assert bytes(target) == tensor.numpy().tobytes()
    staging.finish()


def test_without_room_the_gate_opens_when_the_state_is_written() -> None:
    tensor = torch.zeros(8)
    staging = Staging(lambda: None, [("weight", tensor)])
    staging.finish()
    assert not _passes(staging)
    with staging.writing():
        assert not _passes(staging)
    assert _passes(staging)


def test_a_failed_write_in_place_opens_the_gate_too() -> None:
    staging = Staging(lambda: None, [])
    staging.finish()
    with pytest.raises(OSError, match="disk"), staging.writing():
        raise OSError("disk")
    assert _passes(staging)


def test_a_plan_that_fails_opens_the_gate_and_is_told_to_the_writer() -> None:
    def plan() -> Sequence[Copy]:
        raise MemoryError("no room for the plan")

    staging = Staging(plan, [])
    assert _passes(staging)
    with pytest.raises(MemoryError, match="no room for the plan"):
        staging.finish()


@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in place"])
def test_a_change_that_did_not_wait_is_found(in_place: bool) -> None:
    tensor, changed = torch.zeros(8), threading.Event()

    def plan() -> Sequence[Copy] | None:
        changed.wait(10)
        return None if in_place else _pieces(tensor, bytearray(32))

    staging = Staging(plan, [("weight", tensor)])
    tensor.add_(1)
    changed.set()
    with pytest.raises(StateChangedError, match="weight was changed"):
        _complete(staging)
    assert _passes(staging)


def test_a_change_behind_the_version_is_found_by_the_check() -> None:
    tensor, target, copied = torch.zeros(8), bytearray(32), threading.Event()
    original = staging_module.copy_all

    def copy_late(pieces: Sequence[Copy]) -> None:
        copied.wait(10)
        original(pieces)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging_module, "copy_all", copy_late)
        staging = Staging(lambda: _pieces(tensor, target), [("weight", tensor)], check=True)
        tensor.data.add_(1)
        copied.set()
        with pytest.raises(StateChangedError):
            staging.finish()


def test_a_long_wait_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(staging_module, "PATIENCE_SECONDS", 0.05)
    staging = Staging(lambda: None, [])
    with caplog.at_level(logging.WARNING, "keepstep"):
        assert not _passes(staging, 0.3)
    assert "the optimizer has waited for the disk" in caplog.text
    staging.finish()
    with staging.writing():
        pass


def test_the_state_is_let_go_once_it_is_copied() -> None:
    import weakref

    tensor = torch.zeros(8)
    watched = weakref.ref(tensor)
    staging = Staging(lambda: (), [("weight", tensor)])
    staging.finish()
    del tensor
    assert watched() is None
