"""Checkpoints as stock writers leave them, made of bytes: no torch, no training."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.stock.metadata import dcp_metadata

LAYOUTS = ("full", "sharded", "bin", "weights", "lora", "fsdp", "deepspeed")
Log = Sequence[Mapping[str, Any]]


def log_to(step: int, *, every: int = 2, offset: float = 0.0, metric: str = "eval_loss") -> list[dict[str, Any]]:
    """The records of a training's log up to a step: a loss and an evaluation at each."""
    found: list[dict[str, Any]] = []
    for at in range(every, step + 1, every):
        found.append({"step": at, "epoch": at / 8, "loss": offset + 4 - at / 100})
        found.append({"step": at, "epoch": at / 8, metric: offset + 3 - at / 100, "eval_runtime": 0.25})
    return found


def safetensors(path: Path, elements: int = 24, names: Sequence[str] = ("first", "second")) -> None:
    """A file of fp32 tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = elements * 4
    header = {
        name: {"dtype": "F32", "shape": [elements], "data_offsets": [n * size, (n + 1) * size]}
        for n, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\x07" * size * len(names))


def torch_file(path: Path, size: int = 400) -> None:
    """An archive as `torch.save` makes it: stored, a pickle and a storage."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(range(256)) * (size // 256 + 1))
        archive.writestr("archive/version", b"3\n")


def state_file(path: Path, step: int, log: Log, **more: Any) -> None:
    """`trainer_state.json`, written as Python's own writer does: it knows NaN."""
    values = {"global_step": step, "epoch": step / 8, "max_steps": 40, "log_history": list(log), **more}
    path.write_text(json.dumps(values, indent=2))


def checkpoint(run: Path, step: int, layout: str = "full", log: Log | None = None, at: int | None = None) -> Path:
    """A checkpoint of a layout; `at` is when its save ended, in seconds since the epoch."""
    home = run / f"checkpoint-{step}"
    home.mkdir(parents=True)
    _weights(home, step, layout)
    if layout in ("full", "sharded", "bin", "lora"):
        torch_file(home / "optimizer.pt")
    if layout in ("full", "sharded", "bin", "lora", "fsdp", "deepspeed"):
        torch_file(home / "scheduler.pt")
        torch_file(home / ("rng_state_0.pth" if layout in ("fsdp", "deepspeed") else "rng_state.pth"))
    state_file(home / "trainer_state.json", step, log_to(step) if log is None else log)
    if at is not None:
        for path in (home / "trainer_state.json", home):
            os.utime(path, (at, at))
    return home


def _weights(home: Path, step: int, layout: str) -> None:
    if layout == "lora":
        (home / "adapter_config.json").write_text('{"r": 8}')
        (home / "README.md").write_text("A card.\n")
        safetensors(home / "adapter_model.safetensors")
        return
    (home / "config.json").write_text('{"model_type": "llama"}')
    match layout:
        case "sharded":
            shards = [f"model-{n:05d}-of-00002.safetensors" for n in (1, 2)]
            for name in shards:
                safetensors(home / name, names=(name,))
            index = {"metadata": {}, "weight_map": {name: name for name in shards}}
            (home / "model.safetensors.index.json").write_text(json.dumps(index))
        case "bin":
            torch_file(home / "pytorch_model.bin")
        case "fsdp":
            for name in ("pytorch_model_fsdp_0", "optimizer_0"):
                (home / name).mkdir()
                (home / name / "__0_0.distcp").write_bytes(b"\x01" * 300)
                (home / name / ".metadata").write_bytes(dcp_metadata({"__0_0.distcp": 300}))
        case "deepspeed":
            (home / "latest").write_text(f"global_step{step}")
            (home / "zero_to_fp32.py").write_text("print()\n")
            torch_file(home / f"global_step{step}" / "mp_rank_00_model_states.pt")
            torch_file(home / f"global_step{step}" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
        case _:
            safetensors(home / "model.safetensors")


def run_of(run: Path, steps: Sequence[int], layout: str = "full", **more: Any) -> Path:
    """A run of checkpoints of one course, each later than the one before."""
    for number, step in enumerate(steps):
        checkpoint(run, step, layout, at=1_700_000_000 + 60 * number, **more)
    return run


def everything_below(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """What lies below a directory: time and mode of each entry, and the bytes of files."""
    return {
        os.fspath(path.relative_to(root)): (
            path.lstat().st_mtime_ns,
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(root.rglob("*"))
    }
