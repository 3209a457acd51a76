"""A training loop of ranks without a Trainer, whose every save is written twice: by torch's DCP, and by the engine."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from keepstep.engine import FastEngine, ShardPlans, recording_dcp
from keepstep.model import FileEntry
from keepstep.repository import Finish, sealed
from keepstep.snapshot.arena import Arena
from keepstep.stores import LocalStore

SENT = ("gather_object", "scatter_object_list", "broadcast_object_list", "all_gather_object", "all_reduce", "barrier")
MODEL, OPTIMIZER = "pytorch_model_fsdp_0", "optimizer_0"


class Net(torch.nn.Module):
    """Rows that no number of ranks divides, a weight of another dtype, buffers that a forward pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 7)
        self.norm = torch.nn.BatchNorm1d(7)
        self.second = torch.nn.Linear(7, 5, dtype=torch.bfloat16)
        self.late = torch.nn.Parameter(torch.randn(3, 2))
        self.tied = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x)).to(torch.bfloat16)).float().sum() + self.late.sum()


class Loop:
    """One rank's part: `home` is shared, and every save has a directory of its own there."""

    def __init__(self, rank: int, home: Path, *, replicated: bool = False) -> None:
        self.rank, self.home = rank, home
        torch.manual_seed(3)
        self.model = Net()
        world = dist.get_world_size()
        mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("copy", "part")) if replicated else None
        fully_shard(self.model.second, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        known = [parameter for name, parameter in self.model.named_parameters() if name != "late"]
        self.optimizer: Any = torch.optim.AdamW(known, lr=0.1)
        self.engine = FastEngine(Arena(2**26))
        self.plans = ShardPlans()
        self.fits = False

    def step(self) -> None:
        torch.manual_seed(self.rank)
        self.model(torch.randn(4, 6)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def begin(self, name: str) -> Finish:
        """Save by DCP into `NAME-stock`, then begin to save the same state by the engine, as a save does."""
        self.write_as_ever(self.home / f"{name}-stock")
        root = self.home / name
        with recording_dcp(root) as saves:
            self.write_as_ever(root)
        assert not root.exists()
        mine = torch.tensor(int(self.plans.fit(saves, root)))
        dist.all_reduce(mine, op=dist.ReduceOp.MIN)
        self.fits = bool(mine)
        if not self.fits:
            self.plans.plan(saves, root)
        return self.plans.begin(self.engine, self.model, None)

    def write_as_ever(self, root: Path) -> None:
        """As accelerate does."""
        model: Any = get_model_state_dict(self.model)
        optimizer: Any = get_optimizer_state_dict(self.model, self.optimizer)
        for key, room, state in (("model", MODEL, model), ("optimizer", OPTIMIZER, optimizer)):
            dcp.save({key: state}, storage_writer=dcp.FileSystemWriter(root / room), planner=dcp.DefaultSavePlanner())

    def finish(self, name: str, write: Finish) -> None:
        """Write, and compare with what DCP wrote: this rank's files byte for byte, all digests with the disk."""
        self.engine.gate()
        root, stock = self.home / name, self.home / f"{name}-stock"
        entries = write(root)
        dist.barrier()
        rooms = [MODEL, OPTIMIZER]
        ours = {f"{room}/__{self.rank}_0.distcp" for room in rooms}
        assert set(entries) == ours | ({f"{room}/.metadata" for room in rooms} if self.rank == 0 else set())
        for path in ours:
            assert (root / path).read_bytes() == (stock / path).read_bytes(), (name, path)
        for path, entry in entries.items():
            assert entry == _entry(root, path)
        for room in rooms:
            assert _metadata(root / room) == _metadata(stock / room), name
            loaded, expected = (_load(place / room) for place in (root, stock))
            assert loaded.keys() == expected.keys() and all(_same(loaded[key], expected[key]) for key in loaded)

    def save(self, name: str) -> bool:
        """Whether what was remembered did."""
        self.finish(name, self.begin(name))
        return self.fits


@contextmanager
def sent() -> Iterator[Counter[str]]:
    """Counts the messages of this rank while it lasts, but for those of its other threads."""
    counts, replaced = Counter[str](), list[Any]()

    def counting(name: str, stock: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            counts[name] += threading.current_thread() is threading.main_thread()
            return stock(*arguments, **named)

        return call

    for name in SENT:
        replaced.append(patch.object(dist, name, counting(name, getattr(dist, name))))
        replaced[-1].start()
    try:
        yield counts
    finally:
        for one in replaced:
            one.stop()


def _metadata(directory: Path) -> Any:
    found = pickle.loads((directory / ".metadata").read_bytes())
    return dataclasses.replace(found, storage_meta=None)


def _load(directory: Path) -> dict[str, Any]:
    """Everything in a checkpoint, by DCP's own reader, whole."""
    from torch.distributed.checkpoint.format_utils import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    state: dict[str, Any] = {}
    _load_state_dict(
        state, storage_reader=dcp.FileSystemReader(directory), planner=_EmptyStateDictLoadPlanner(), no_dist=True
    )
    return state


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def _entry(root: Path, path: str) -> FileEntry:
    return sealed(LocalStore(root), path, path, (root / path).stat().st_size)
