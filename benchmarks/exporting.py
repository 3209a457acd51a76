"""What an export takes beside `save_pretrained` of the same model, which checks nothing.

python benchmarks/exporting.py --rounds 5 --directory DISK

GPT-2 of 124M parameters, 498 MB, trained for one step and saved by keepstep; then in one process, in turns:
`save_pretrained` of the model in memory, with an fsync of what it wrote and without, and `keepstep.export` of the
checkpoint with all of its checks and without the loading and computing. Files of the checkpoint are in the page cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import keepstep


def trained(out: Path, layers: int) -> Any:
    """The model after a step, whose checkpoint lies in `out`."""
    torch.manual_seed(0)
    rows = [{"input_ids": torch.arange(16), "labels": torch.arange(16)}] * 2
    args = TrainingArguments(
        str(out), max_steps=1, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True,
        per_device_train_batch_size=1,
    )  # fmt: skip
    trainer = Trainer(GPT2LMHeadModel(GPT2Config(n_layer=layers)), args, train_dataset=rows)
    keepstep.attach(trainer)
    trainer.train()
    return trainer.model


def stock(model: Any, target: Path, *, sync: bool) -> None:
    """`save_pretrained`, and what makes it durable."""
    model.save_pretrained(target)
    for path in target.iterdir() if sync else ():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; one more goes before")
    parser.add_argument("--layers", type=int, default=12, help="layers of the GPT-2")
    parser.add_argument("--directory", type=Path, help="where all is written; a temporary place else")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as place:
        home = Path(place)
        model = trained(home / "run", options.layers)
        ways: dict[str, Callable[[Path], object]] = {
            "save_pretrained": lambda target: stock(model, target, sync=False),
            "save_pretrained, fsync": lambda target: stock(model, target, sync=True),
            "export": lambda target: keepstep.export(home / "run", target, reference="latest"),
            "export, check=False": lambda target: keepstep.export(
                home / "run", target, reference="latest", check=False
            ),
            "export, bf16": lambda target: keepstep.export(home / "run", target, reference="latest", dtype="bf16"),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for turn in range(options.rounds + 1):
            for name in list(ways)[:: 1 if turn % 2 else -1]:
                target = home / "out"
                began, used = time.perf_counter(), time.process_time()
                ways[name](target)
                if turn:
                    found[name].append((time.perf_counter() - began, time.process_time() - used))
                shutil.rmtree(target)
                os.sync()
    _print(found)


def _print(found: dict[str, list[tuple[float, float]]]) -> None:
    usual = statistics.median(seconds for seconds, _ in found["save_pretrained"])
    print(f"{'way':<26}{'seconds':<24}{'CPU':<8}of save_pretrained     (load {os.getloadavg()[0]:.1f} at the end)")
    for name, times in found.items():
        seconds = sorted(wall for wall, _ in times)
        middle = statistics.median(seconds)
        spread = f"{middle:.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})"
        used = statistics.median(cpu for _, cpu in times)
        print(f"{name:<26}{spread:<24}{used:<8.2f}{middle / usual:.2f}")


if __name__ == "__main__":
    main()
