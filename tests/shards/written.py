"""Sharded checkpoints as torch and accelerate write them: two gloo ranks on CPU, models sharded by `fully_shard`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tests.stock.written import log_to, state_file
from tests.training.processes import call

RANKS = 2
KINDS = ("llama", "tied", "bf16", "lora")
"""Models whose run has a sharded checkpoint of each step."""
STEPS = (2, 4)


def write(root: Path) -> None:
    """Everything below `root`, by two processes: runs of `KINDS`, the loose tensors, `full` and `replicated`."""
    root.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(RANKS) as pool:
        logs = [root / f"rank-{rank}.log" for rank in range(RANKS)]
        ended = list(pool.map(lambda rank: call(_rank, root, rank, log=logs[rank]), range(RANKS)))
    assert ended == [0] * RANKS, "\n".join(log.read_text() for log in logs)


def expected(root: Path, name: str) -> dict[str, torch.Tensor]:
    """The full tensors that were saved, as `get_model_state_dict` gathered them."""
    return torch.load(root / f"{name}.pt", weights_only=True)


def _rank(root: Path, rank: int) -> None:
    import accelerate
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=RANKS)
    accelerate.PartialState(cpu=True)  # accelerate's writers ask it who logs
    for kind in KINDS:
        _run(root, kind, rank)
    _loose(root, rank)
    _full(root, rank)
    _replicated(root, rank)
    dist.barrier()
    dist.destroy_process_group()


def _built(root: Path, kind: str, rank: int) -> Any:
    from tests.training.exported import adapted, gpt2, llama

    if kind == "lora":
        base = root / "base"
        if rank == 0:
            llama(3).save_pretrained(base)
        torch.distributed.barrier()
        return adapted(base)
    built = gpt2() if kind == "tied" else llama()
    return built.to(torch.bfloat16) if kind == "bf16" else built


def _run(root: Path, kind: str, rank: int) -> None:
    """A run with a checkpoint of each step; between them every weight that trains has moved by a step of AdamW."""
    from accelerate.utils import save_fsdp_model, save_fsdp_optimizer
    from torch.distributed.fsdp import fully_shard

    model = _built(root, kind, rank)
    if rank == 0:
        _configs(root / f"{kind}-config", model)
    fully_shard(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    who = SimpleNamespace(process_index=rank, num_processes=RANKS)
    for step in STEPS:
        torch.manual_seed(step)
        ids = torch.randint(4, 60, (2, 12))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        home = root / kind / f"checkpoint-{step}"
        home.mkdir(parents=True, exist_ok=True)
        save_fsdp_model(_plugin("SHARDED_STATE_DICT"), who, model, str(home), adapter_only=True)
        save_fsdp_optimizer(_plugin("SHARDED_STATE_DICT"), who, optimizer, model, str(home))
        torch.save({"cpu": torch.get_rng_state()}, home / f"rng_state_{rank}.pth")
        _gathered(root / f"{kind}-{step}.pt", model, rank, adapter=kind == "lora")
        if rank == 0:
            torch.save({"last_epoch": step}, home / "scheduler.pt")
            state_file(home / "trainer_state.json", step, log_to(step))
        torch.distributed.barrier()


def _plugin(layout: str) -> Any:
    """As much of accelerate's FSDP plugin as its writers ask for."""
    from torch.distributed.fsdp.fully_sharded_data_parallel import StateDictType

    return SimpleNamespace(fsdp_version=2, state_dict_type=StateDictType[layout], state_dict_config=SimpleNamespace())


def _configs(directory: Path, model: Any) -> None:
    from tests.training.tiny import tokenizer

    directory.mkdir()
    if hasattr(model, "peft_config"):
        model.peft_config["default"].save_pretrained(directory)
    else:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(directory)
    tokenizer().save_pretrained(directory)


def _gathered(path: Path, model: Any, rank: int, *, adapter: bool) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapter)
    found = get_model_state_dict(model, options=options)
    if rank == 0:
        torch.save({name.replace(".default.", "."): value for name, value in found.items()}, path)


def loose() -> dict[str, torch.Tensor]:
    """Tensors of every dtype and odd shapes, as one process would hold them."""
    torch.manual_seed(5)
    found: dict[str, torch.Tensor] = {}
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        found[f"of.{dtype}"] = torch.randn(7, 6).to(dtype)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        found[f"of.{dtype}"] = torch.randint(0, 100, (5, 4), dtype=dtype)
    found["of.torch.bool"] = torch.randn(9, 3) > 0
    found["columns"] = torch.randn(6, 10)
    found["cube"] = torch.randn(3, 4, 5)
    return found


def _loose(root: Path, rank: int) -> None:
    """Each of them by rows, two by another dimension; with them what no rank shards."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh("cpu", (RANKS,))
    sharded: dict[str, Any] = {}
    for name, value in loose().items():
        along = 1 if name in ("columns", "cube") else 0
        local = value.chunk(RANKS, along)[rank]
        sharded[name] = DTensor.from_local(local, mesh, [Shard(along)], shape=value.shape, stride=value.stride())
    whole = {"number": torch.tensor(3.5), "empty": torch.empty(0, 4), "turned": torch.arange(12.0).view(3, 4).t()}
    dcp.save({**sharded, **whole, "note": {"by": "a person"}}, checkpoint_id=str(root / "loose"))
    if rank == 0:
        torch.save({**loose(), **{name: value.contiguous() for name, value in whole.items()}}, root / "loose.pt")


def _full(root: Path, rank: int) -> None:
    """FULL_STATE_DICT: rank 0 writes the weights twice, as the Trainer and accelerate do."""
    from accelerate.utils import save_fsdp_model
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    from tests.training.exported import llama

    model = llama(7)
    home = root / "full" / "checkpoint-2"
    unsharded = llama(7)
    fully_shard(model)
    plugin, who = _plugin("FULL_STATE_DICT"), SimpleNamespace(process_index=rank, num_processes=RANKS)
    save_fsdp_model(plugin, who, model, str(home))
    torch.save({"cpu": torch.get_rng_state()}, home / f"rng_state_{rank}.pth")
    found = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        unsharded.save_pretrained(home, state_dict=found)
        torch.save({"state": {}}, home / "optimizer.bin")
        torch.save({"last_epoch": 2}, home / "scheduler.pt")
        state_file(home / "trainer_state.json", 2, log_to(2))
        torch.save(found, root / "full-2.pt")


def _replicated(root: Path, rank: int) -> None:
    """HSDP as far as two ranks go: both hold all, and DCP writes each tensor once, by one of them."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from tests.training.exported import llama

    model = llama(9)
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS, 1), mesh_dim_names=("replicate", "shard")))
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=str(root / "replicated"))
    if rank == 0:
        torch.save(whole, root / "replicated.pt")


def parts(directory: Path) -> Iterator[Path]:
    """The files of the ranks below a directory."""
    yield from sorted(directory.rglob("*.distcp"))


def as_json(path: Path) -> Mapping[str, Any]:
    """A JSON object."""
    return json.loads(path.read_text())
