"""What imprints cost: saves and resumes of a real Trainer, with and without, alternating in one training.

python benchmarks/imprints.py --model full --saves 12 --directory /path/on/the/disk

A save is measured from the end of its step until it is durable, while nothing else trains: CPU and wall time of the
whole process, and the wall time until the first callback hears of it. "Without" takes no digest and writes no imprint.
A resume is measured from the check of the files to the end of the optimizer's load; the comparison is a part of that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

import keepstep
from keepstep.integrations.transformers.resuming import found
from keepstep.integrations.transformers.resuming.comparing import Comparison
from keepstep.integrations.transformers.saving import saves as saving

Measured = dict[str, list[float]]


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", choices=["full", "lora"], default="full", help="GPT-2 of 124M parameters, or rank 16 on it"
    )
    parser.add_argument("--saves", type=int, default=12, help="saves to measure, half of them with imprints")
    parser.add_argument("--directory", type=Path, default=None, help="where the checkpoints go")
    options = parser.parse_args()
    if options.directory is not None:
        options.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        _saves(options.model, options.saves, Path(directory) / "run")
        _resume(options.model, Path(directory) / "run")


def _build(kind: str, out: Path, steps: int, callbacks: Sequence[TrainerCallback] = ()) -> Any:
    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config())
    if kind == "lora":
        config = LoraConfig(r=16, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
        model = get_peft_model(model, config)
    rows = [{"input_ids": torch.arange(16), "labels": torch.arange(16)}] * steps
    arguments = TrainingArguments(
        os.fspath(out), max_steps=steps, per_device_train_batch_size=1, save_steps=1, save_total_limit=2,
        logging_steps=steps, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=rows, callbacks=list(callbacks))  # pyright: ignore[reportArgumentType]


class _Meter(TrainerCallback):
    """Measures each save, and switches the imprints for the next."""

    def __init__(self) -> None:
        self.with_imprint: Measured = {"CPU, s": [], "durable after, s": [], "until on_save, s": []}
        self.without: Measured = {name: [] for name in self.with_imprint}
        self.taking = True
        self.drain: Callable[[], None] = lambda: None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._held = time.perf_counter() - self._wall

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            return
        self.drain()
        values = (time.process_time() - self._cpu, time.perf_counter() - self._wall, self._held)
        if state.global_step > 3:  # the first ones warm up
            for name, value in zip(self.with_imprint, values, strict=True):
                (self.with_imprint if self.taking else self.without)[name].append(value)
        # Pairs in either order; the last save has an imprint, for the resume.
        self.taking = state.global_step % 4 in (0, 1) or state.global_step == args.max_steps - 1


def _saves(kind: str, count: int, out: Path) -> None:
    meter = _Meter()
    trainer = _build(kind, out, count + 5, [meter])
    keepstep.attach(trainer, engine="fast")
    meter.drain = trainer._keepstep.saves.drain
    take = saving.impression_of
    with mock.patch.object(saving, "impression_of", lambda given: take(given) if meter.taking else None):
        trainer.train()
    print(f"| {kind}: a save | without | with | with / without |\n|---|---|---|---|")
    for name in meter.without:
        _row(name, meter.without[name], meter.with_imprint[name])


def _row(name: str, without: list[float], with_imprint: list[float]) -> None:
    ratios = [one / other for one, other in zip(with_imprint, without, strict=False)]
    print(f"| {name} | {_spread(without)} | {_spread(with_imprint)} | {_spread(ratios)} |")


def _resume(kind: str, out: Path) -> None:
    spent = {"whole": 0.0, "compared": 0.0}
    trainer = _build(kind, out, 10**6)
    newest = max(out.glob("checkpoint-*"), key=os.path.getmtime)
    trainer.args.max_steps = int(newest.name.split("-")[1]) + 1
    keepstep.attach(trainer, engine="fast")
    compare, judge, began = found.compared, Comparison.judge_optimizer, time.process_time()

    def timed(*args: Any) -> Any:
        start = time.process_time()
        try:
            return compare(*args)
        finally:
            spent["compared"] += time.process_time() - start

    def last(*args: Any) -> None:
        spent["whole"] = time.process_time() - began
        judge(*args)

    place = "keepstep.integrations.transformers.resuming.comparing.compared"
    with mock.patch(place, timed), mock.patch.object(Comparison, "judge_optimizer", last):
        trainer.train(resume_from_checkpoint=True)
    share = spent["compared"] / spent["whole"]
    print(f"\n{kind}: a resume takes {spent['whole']:.2f} CPU-s until all is loaded, {share:.1%} of it to compare")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


if __name__ == "__main__":
    main()
