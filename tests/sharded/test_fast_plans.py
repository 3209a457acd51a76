"""Shards laid out, copied and written by the engine: torch's own bytes, of the moment of the save, planned once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

pytest.importorskip("transformers")

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from keepstep.engine import FastEngine, recording_dcp
from keepstep.formats.layout import UnsupportedTensorError
from keepstep.integrations.transformers.saving.deferring import cause_of
from keepstep.snapshot import staging
from keepstep.snapshot.arena import Arena
from keepstep.snapshot.staging import StateChangedError
from tests.sharded.fast_loop import Loop, sent
from tests.training.ranked import logs_of, run_ranks

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.long)])
def test_shards_are_those_of_torch_at_any_state_of_the_training(tmp_path: Path, world: int) -> None:
    codes = run_ranks(tmp_path, _course, tmp_path, world=world)
    assert codes == [0] * world, logs_of(tmp_path)


def _course(rank: int, home: Path) -> None:
    dist.init_process_group("gloo")
    loop = Loop(rank, home)
    loop.step()
    # Planned by all ranks once: two saves of torch's, as ever.
    with sent() as counts:
        loop.begin("counted")
    loop.engine.gate()
    assert not loop.fits
    assert counts == {"gather_object": 8, "scatter_object_list": 4, "broadcast_object_list": 4, "all_reduce": 1}
    # Values change, and the learning rate: nothing is sent but the one bit.
    for number in range(2):
        loop.step()
        loop.optimizer.param_groups[0]["lr"] = 0.01 / (number + 3)
        assert loop.save(f"values {number}")
    with patch("torch.distributed.checkpoint.state_dict_saver._save_state_dict", _never):
        root = home / "counted again"
        with recording_dcp(root) as saves:
            loop.write_as_ever(root)
        with sent() as counts:
            assert loop.plans.fit(saves, root)
            write = loop.plans.begin(loop.engine, loop.model, None)
        assert not counts
    loop.engine.gate()
    write(root)
    # A setting whose pickle is longer moves what lies behind it.
    loop.optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
    assert not loop.save("a number that is a tensor now")
    loop.optimizer.param_groups[0]["said"] = "once"
    assert not loop.save("one more setting")
    loop.optimizer.param_groups[0]["said"] = "once more, " * 40
    assert not loop.save("a longer setting")
    # A weight is frozen, another one trains from now on: its moments are new.
    loop.model.first.bias.requires_grad_(False)
    loop.optimizer.add_param_group({"params": [loop.model.late], "lr": 0.5})
    loop.step()
    assert not loop.save("one more weight")
    loop.step()
    assert loop.save("and on")
    loop.model.register_buffer("more", torch.arange(6.0).view(2, 3).t())
    assert not loop.save("a buffer that is no row")
    _begins_with_the_state_of_the_save(loop)
    _tells_a_change(loop)
    _writes_in_place_without_memory(loop)
    _refuses_what_it_does_not_know(loop)
    dist.barrier()
    dist.destroy_process_group()


def _never(*arguments: Any, **named: Any) -> None:
    raise AssertionError("planned")


class _Slow:
    """Holds the copy up until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def copy_all(self, pieces: Any) -> None:
        self.go.wait(60)
        _copy_all(pieces)


_copy_all = staging.copy_all


def _begins_with_the_state_of_the_save(loop: Loop) -> None:
    """A forward pass in training changes buffers while the copy is under way; the optimizer waits for it."""
    slow = _Slow()
    with patch.object(staging, "copy_all", slow.copy_all):
        write = loop.begin("slow")
        loop.model(torch.randn(4, 6)).backward()
        passed = threading.Event()

        def pass_the_gate() -> None:
            loop.engine.gate()
            passed.set()

        waiting = threading.Thread(target=pass_the_gate)
        waiting.start()
        assert not passed.wait(0.2)
        slow.go.set()
        waiting.join()
    loop.optimizer.step()
    loop.optimizer.zero_grad()
    loop.finish("slow", write)


def _tells_a_change(loop: Loop) -> None:
    for name, change in (
        ("weight", lambda: loop.model.first.weight.data.mul_(2)),
        ("moment", lambda: next(iter(loop.optimizer.state.values()))["exp_avg"].add_(1)),
    ):
        slow = _Slow()
        with patch.object(staging, "copy_all", slow.copy_all), patch.dict("os.environ", KEEPSTEP_CHECK_SNAPSHOT="1"):
            write = loop.begin(f"changed {name}")
            with torch.no_grad():
                change()
            slow.go.set()
            loop.engine.gate()
            with pytest.raises(StateChangedError, match="was changed while it was being saved"):
                write(loop.home / f"changed {name}")
    slow = _Slow()
    with patch.object(staging, "copy_all", slow.copy_all):
        write = loop.begin("changed moment, unchecked")
        next(iter(loop.optimizer.state.values()))["exp_avg"].add_(1)
        slow.go.set()
        loop.engine.gate()
        with pytest.raises(StateChangedError, match="exp_avg"):
            write(loop.home / "changed moment, unchecked")


def _writes_in_place_without_memory(loop: Loop) -> None:
    loop.engine.close()
    loop.engine = FastEngine(Arena(4096))
    write = loop.begin("in place")
    assert loop.engine.copying
    loop.engine._staging, held = None, loop.engine._staging  # the gate would wait for the write
    loop.finish("in place", write)
    assert held is not None
    held.wait()


def _refuses_what_it_does_not_know(loop: Loop) -> None:
    loop.model.register_buffer("odd", torch.eye(3).to_sparse())
    root = loop.home / "odd"
    with recording_dcp(root) as saves:
        loop.write_as_ever(root)
    assert not loop.plans.fit(saves, root)
    with pytest.raises(CheckpointException) as told:
        loop.plans.plan(saves, root)
    assert isinstance(cause_of(told.value)[0], UnsupportedTensorError)


def test_of_copies_each_is_written_once(tmp_path: Path) -> None:
    codes = run_ranks(tmp_path, _replicated, tmp_path, world=4)
    assert codes == [0] * 4, logs_of(tmp_path)


def _replicated(rank: int, home: Path) -> None:
    dist.init_process_group("gloo")
    loop = Loop(rank, home, replicated=True)
    loop.step()
    assert not loop.save("first")
    loop.step()
    assert loop.save("second")
    dist.barrier()
    dist.destroy_process_group()
