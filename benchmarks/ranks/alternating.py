"""Held up on a machine that is not idle: one training whose saves are, in turns, keepstep's and the stock Trainer's.

What else runs changes from minute to minute, and so from course to course; from one step to the next it does not.
Before each save all is durable that was begun, so that none waits for another.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from benchmarks.ranks.course import make_trainer
from benchmarks.saves.report import table
from benchmarks.saves.spec import CourseSpec
from tests.sharded import cpu_fsdp
from transformers import TrainerCallback

REMEMBERED, PLANNED, STOCK = "keepstep, plans remembered", "keepstep, planned each time", "HF Trainer, SHARDED"
TURNS = (REMEMBERED, STOCK, PLANNED, STOCK)
"""Planned anew, the plans are those that the next save remembers."""
WARM = len(TURNS)


class _EveryStep(TrainerCallback):
    """Saves at every step, `count` times."""

    def __init__(self, count: int) -> None:
        self._count = count

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The gate of the save before lies behind."""
        control.should_save = state.global_step <= self._count
        control.should_training_stop = state.global_step > self._count


class _Turns:
    """Times the saves of one rank: seconds in the save and at the gate, and CPU seconds of its thread."""

    def __init__(self, trainer: Any) -> None:
        self._saves = trainer._keepstep.saves
        self._save, self._gate = self._saves.save, self._saves.gate
        self._saves.save, self._saves.gate = self.save, self.gate
        self._count = 0
        self.found: list[tuple[str, float, float]] = []

    def save(self, write_stock: Callable[[], None]) -> Any:
        """In the way whose turn it is."""
        way = TURNS[self._count % len(TURNS)]
        self._count += 1
        self._saves._sealing.join()
        self._saves._checkpointer.failure(wait=True)
        dist.barrier()
        if way == PLANNED:
            self._saves._shards.forget()
        began, cpu = time.perf_counter(), time.thread_time()
        committed = write_stock() if way == STOCK else self._save(write_stock)
        self.found.append((way, time.perf_counter() - began, time.thread_time() - cpu))
        return committed

    def gate(self) -> None:
        """Before the optimizer: a part of the save before."""
        began = time.perf_counter()
        self._gate()
        if self.found:
            way, seconds, cpu = self.found[-1]
            self.found[-1] = way, seconds + time.perf_counter() - began, cpu


def run(spec: CourseSpec) -> dict[str, Any]:
    """Train on this rank, and save `spec.saves` times in each turn after one that warms up; what rank 0 found."""
    import keepstep

    torch.set_num_threads(spec.threads)
    cpu_fsdp.allow()
    trainer, about = make_trainer(spec, Path(spec.directory))
    keepstep.attach(trainer, keep="latest:2", engine="fast")
    turns = _Turns(trainer)
    trainer.add_callback(_EveryStep(WARM + len(TURNS) * spec.saves))
    before = os.getloadavg()[0]
    trainer.train()
    return {"found": turns.found[WARM:], "about": about, "load": [before, os.getloadavg()[0]]}


def render(record: dict[str, Any]) -> str:
    """A table of medians; each ratio is that of a save to the mean of the stock saves beside it."""
    found = record["found"]
    body: list[list[str]] = []
    for way in dict.fromkeys(TURNS):
        mine = [(number, seconds, cpu) for number, (name, seconds, cpu) in enumerate(found) if name == way]
        ratios = [seconds / _beside(found, number) for number, seconds, _ in mine] if way != STOCK else [1.0]
        held = [seconds for _, seconds, _ in mine]
        body.append([
            way, f"{median(held):.3f} [{min(held):.3f}, {max(held):.3f}]", f"{median(ratios):.2f}",
            f"{median(cpu for _, _, cpu in mine):.3f}", str(len(mine)),
        ])  # fmt: skip
    low, high = sorted(record["load"])
    head = ["saves in turns", "held up, s", "of the stock saves beside it", "CPU of the training's thread, s", "n"]
    return f"{record['about']}; load average {low:.1f} to {high:.1f}.\n\n{table(head, body)}"


def _beside(found: list[Any], number: int) -> float:
    beside = [found[at][1] for at in (number - 1, number + 1) if 0 <= at < len(found) and found[at][0] == STOCK]
    return sum(beside) / len(beside)
