"""What one save of torch's distributed checkpoints, and of keepstep's engine, sends and writes: on every rank."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from tests.training.processes import call

TENSORS = 40
AGREED = {"gather_object": 1, "broadcast_object_list": 6}
"""What keepstep sends for a save of several ranks while the training waits, whatever is in it."""
BEHIND = {"gather_object": 1, "broadcast_object_list": 1}
"""What its background threads send."""
SENT = ("gather_object", "scatter_object_list", "broadcast_object_list")
_DIRECTORY = {"os.mkdir": "mkdir", "os.rename": "rename", "os.remove": "remove"}


def counted(root: Path, ranks: int) -> list[dict[str, Any]]:
    """For each rank of so many: calls of collectives, bytes that it gives to each, files, operations on directories."""
    root.mkdir()
    with ThreadPoolExecutor(ranks) as pool:
        logs = [root / f"rank-{rank}.log" for rank in range(ranks)]
        ended = list(pool.map(lambda rank: call(_rank, root, rank, ranks, log=logs[rank]), range(ranks)))
    assert ended == [0] * ranks, "\n".join(log.read_text() for log in logs)
    return [json.loads((root / f"rank-{rank}.json").read_text()) for rank in range(ranks)]


def _rank(root: Path, rank: int, ranks: int) -> None:
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    state = {
        f"layers.{number:03d}.weight": DTensor.from_local(torch.ones(4, 8), mesh, [Shard(0)])
        for number in range(TENSORS)
    }
    calls, given, done = Counter[str](), Counter[str](), Counter[str]()
    for name in SENT:
        setattr(dist, name, _counting(name, getattr(dist, name), calls, given))
    target = os.fspath(root / "saved")

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        path = os.fspath(arguments[0]) if arguments and isinstance(arguments[0], (str, os.PathLike)) else ""
        if not path.startswith(target):
            return
        if event in _DIRECTORY:
            done[_DIRECTORY[event]] += 1
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT:
            done["created"] += 1

    sys.addaudithook(heard)
    dcp.save({"model": state}, checkpoint_id=target)
    found: dict[str, Any] = {"calls": dict(calls), "bytes": dict(given), "done": dict(done)}
    found |= _of_the_engine(Path(target), state, calls, done)
    (root / f"rank-{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _of_the_engine(target: Path, state: dict[str, Any], calls: Counter[str], done: Counter[str]) -> dict[str, Any]:
    """What the same state costs where it is copied and written behind: first planned, then remembered."""
    import torch.distributed.checkpoint as dcp

    from keepstep.engine import FastEngine, ShardPlans, recording_dcp
    from keepstep.snapshot.arena import Arena

    plans, engine, found = ShardPlans(), FastEngine(Arena(2**24)), dict[str, Any]()
    for name in ("planned", "remembered"):
        calls.clear()
        done.clear()
        root = target / name
        with recording_dcp(root) as saves:
            writer = dcp.FileSystemWriter(root / "model")
            dcp.save({"model": state}, storage_writer=writer, planner=dcp.DefaultSavePlanner())
        if not plans.fit(saves, root):
            plans.plan(saves, root)
        write = plans.begin(engine, torch.nn.Module(), None)
        engine.gate()
        write(root)
        found[name] = {"calls": dict(calls), "done": dict(done)}
    engine.close()
    return found


def _counting(name: str, stock: Any, calls: Counter[str], given: Counter[str]) -> Any:
    """The bytes of what this rank puts in: the one object of a gather, all of them at the root of the others."""

    def wrapped(*arguments: Any, **named: Any) -> Any:
        put = {
            "gather_object": lambda: [named["obj"] if "obj" in named else arguments[0]],
            "scatter_object_list": lambda: named.get("scatter_object_input_list") or [],
            "broadcast_object_list": lambda: named["object_list"] if "object_list" in named else arguments[0],
        }[name]()
        calls[name] += 1
        given[f"{name}.{calls[name]}"] += sum(len(pickle.dumps(one)) for one in put if one is not None)
        return stock(*arguments, **named)

    return wrapped
