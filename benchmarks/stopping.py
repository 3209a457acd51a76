"""What it costs a step to be ready to stop: signals, requests, sign of life, and the byte that several ranks agree on.

python benchmarks/stopping.py --steps 400
torchrun --nproc-per-node 2 benchmarks/stopping.py --steps 400

One training, in which blocks of steps with and without alternate; a step is measured from its begin to the next one's.
Only the ratio within one run means something: that of each block to the next one, their median, and between which two
values half of them lie.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

import keepstep
from keepstep.integrations.transformers.saving.stops import Stops

BLOCK = 10
"""Steps of a block; the first of each is left out."""
WITH, WITHOUT = "with", "without"


class Clock(TrainerCallback):
    """Measures steps, and switches between the blocks."""

    def __init__(self) -> None:
        self.found: dict[str, dict[int, list[float]]] = {WITH: {}, WITHOUT: {}}
        self._began = 0.0
        self._off = mock.patch.object(Stops, "step_ends", return_value=None)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step begins: the one before it is over."""
        now, step = time.perf_counter(), state.global_step
        way = WITH if step // BLOCK % 2 == 0 else WITHOUT
        if step % BLOCK == 0 and step:
            if way == WITHOUT:
                self._off.start()
            else:
                self._off.stop()
        elif step % BLOCK > 1:
            self.found[way].setdefault(step // (2 * BLOCK), []).append(now - self._began)
        self._began = time.perf_counter()


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="steps to measure, half of them with")
    parser.add_argument("--width", type=int, default=256, help="width of the GPT-2 that is trained")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=options.width, n_layer=4, n_head=4, vocab_size=1000))
    rows = [{"input_ids": torch.arange(64), "labels": torch.arange(64)}] * 64
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            os.fspath(Path(os.environ.get("STOPPING_DIRECTORY", directory)) / "run"), max_steps=options.steps,
            per_device_train_batch_size=2, save_strategy="no", logging_steps=10**6, report_to=[], use_cpu=True,
            disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[clock])
        keepstep.attach(trainer, stop_file="STOP", max_time="9h")
        trainer.train()
        if trainer.is_world_process_zero():
            _print(clock.found, trainer.args.world_size)


def _print(found: dict[str, dict[int, list[float]]], world: int) -> None:
    for way, blocks in found.items():
        times = [time for block in blocks.values() for time in block]
        print(f"{way:<8} {statistics.median(times) * 1e3:8.3f} ms a step (median of {len(times)}), {world} process(es)")
    pairs = found[WITH].keys() & found[WITHOUT].keys()
    ratios = [statistics.median(found[WITH][one]) / statistics.median(found[WITHOUT][one]) for one in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"a step with it takes {middle:.4f} [{low:.4f}, {high:.4f}] of one without ({len(ratios)} pairs of blocks)")


if __name__ == "__main__":
    main()
