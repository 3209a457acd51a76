"""How long a training that is resumed late in its data takes to its first step, with the stock Trainer and with ours.

python benchmarks/late_resume.py --batches 20000 --times 5

For each kind of data one training is saved after so many batches; then it is resumed, by both in turn, and the time
from `train()` until the first step begins is measured. `begun` is the same with ours at a checkpoint after 100 batches:
what a resume takes anyway. The model is one layer of one number, so that the training before takes seconds.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset, disable_progress_bars
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

import keepstep

BATCH, EARLY, WIDTH = 8, 100, 64
"""Rows of a batch, batches before the early checkpoint, numbers of a row."""


class Small(torch.nn.Module):
    """A model of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """The loss of a batch."""
        return {"loss": (self.weight * input_ids.float().mean() - 1) ** 2}


class Plain(IterableDataset[Any]):
    """A stream without a state of its own."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Any]:
        return (tokens(number) for number in range(self._rows))


class Reached(Exception):
    """The first step begins."""


class Clock(TrainerCallback):
    """Ends a training where its first step begins."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """All data of the step has been read."""
        raise Reached


def tokens(number: int) -> dict[str, list[int]]:
    """A row, as if a text had been tokenized."""
    ids = [(number * 31 + place) % 1000 for place in range(WIDTH)]
    return {"input_ids": ids, "labels": ids}


def collate(rows: list[Any]) -> dict[str, torch.Tensor]:
    """A batch of rows of one length."""
    return {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}


def data_of(kind: str, batches: int) -> Any:
    """Rows for some batches more than that."""
    rows = (batches + 2 * EARLY) * BATCH
    if kind == "plain stream":
        return Plain(rows)
    numbers = Dataset.from_dict({"number": list(range(rows))})
    if kind == "stream":
        return numbers.to_iterable_dataset(16).map(lambda row: tokens(row["number"]), remove_columns=["number"])
    return numbers.with_transform(both)


def both(rows: dict[str, Any]) -> dict[str, Any]:
    """The same of rows that have numbers."""
    ids = [tokens(number)["input_ids"] for number in rows["number"]]
    return {"input_ids": ids, "labels": ids}


def trainer(kind: str, workers: int, batches: int, out: Path) -> Trainer:
    """A stock trainer."""
    args = TrainingArguments(
        output_dir=str(out), max_steps=batches // EARLY + 1, gradient_accumulation_steps=EARLY, logging_steps=10**9,
        per_device_train_batch_size=BATCH, save_strategy="steps", save_steps=10**9, use_cpu=True, report_to="none",
        disable_tqdm=True, dataloader_num_workers=workers, dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip
    return Trainer(Small(), args, train_dataset=data_of(kind, batches), data_collator=collate)


class At(TrainerCallback):
    """Saves after the last step but one."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide on this step's save."""
        control.should_save = state.global_step == args.max_steps - 1


def prepare(kind: str, workers: int, batches: int, out: Path) -> None:
    """Train and save."""
    made = trainer(kind, workers, batches, out)
    keepstep.attach(made, keep="all")
    made.add_callback(At())
    made.train()


def seconds(kind: str, workers: int, batches: int, out: Path, step: int, *, managed: bool) -> float:
    """From `train()` to the first step."""
    made = trainer(kind, workers, batches, out)
    if managed:
        keepstep.attach(made, keep="all", fresh="new-run")
    made.add_callback(Clock())
    began = time.perf_counter()
    try:
        made.train(resume_from_checkpoint=str(out / f"checkpoint-{step}"))
    except Reached:
        return time.perf_counter() - began
    raise SystemExit("it did not come to a step")


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=20_000, help="batches before the late checkpoint")
    parser.add_argument("--times", type=int, default=5, help="resumes of each kind, of both sides in turn")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    logging.getLogger("keepstep").setLevel(logging.ERROR)
    late = asked.batches // EARLY
    print(f"seconds from train() to the first step, median (least to most) of {asked.times}; {asked.batches} batches")
    print(f"{'data':<16}{'workers':<9}{'begun':<22}{'stock':<22}{'ours':<22}")
    kinds = [("rows", 0), ("rows", 2), ("stream", 0), ("stream", 2), ("plain stream", 0)]
    with tempfile.TemporaryDirectory() as home:
        for kind, workers in kinds:
            out = Path(home) / f"{kind} {workers}"
            early = out.with_name(f"{out.name} early")
            prepare(kind, workers, asked.batches, out)
            prepare(kind, workers, EARLY, early)
            ways = (("begun", early, 1, True), ("stock", out, late, False), ("ours", out, late, True))
            found: dict[str, list[float]] = {name: [] for name, *_ in ways}
            for _ in range(asked.times):
                for name, where, step, managed in ways:
                    found[name].append(seconds(kind, workers, asked.batches, where, step, managed=managed))
            cells = "".join(f"{_spread(found[name]):<22}" for name in found)
            print(f"{kind:<16}{workers:<9}{cells}", flush=True)


def _spread(found: list[float]) -> str:
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


if __name__ == "__main__":
    main()
