"""One course: a real Trainer trains in this process while one method saves, and everything is timed."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from benchmarks.saves.methods import METHODS
from benchmarks.saves.methods.base import Method, state_bytes
from benchmarks.saves.spec import CourseSpec
from benchmarks.saves.usage import Memory, cpu_seconds
from benchmarks.saves.watcher import Save, Watcher, monotonic
from benchmarks.saves.workloads import Workload, build
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils.logging import disable_progress_bar

WARM_STEPS = 2
TAIL_STEPS = 3
ENDLESS = 1_000_000


class Ruler(TrainerCallback):
    """Notes the time of every step end, and decides at which steps a save is due.

    Two steps and one save warm up. When that save is durable, `quiet` undisturbed steps follow, then the saves that
    count, one every `every` steps; the training ends some steps after the last of them is durable.
    """

    def __init__(self, spec: CourseSpec, watcher: Watcher) -> None:
        self._spec = spec
        self._watcher = watcher
        self.boundaries: list[float] = []
        self.cpu: list[float] = []
        self.memory = Memory()
        self._settled_at: int | None = None
        self._done_at: int | None = None
        self._counted = 0
        self.asked = False
        """Whether a save of this step is one of the course: some save the step that ends a training, too."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Step 0 ends here."""
        self._note()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the time first, then decide."""
        self._note()
        step = state.global_step
        control.should_save = self.asked = self._due(step)
        if self._counted == self._spec.saves and not control.should_save and self._watcher.idle:
            if self._done_at is None:
                self._done_at = step
            control.should_training_stop = step >= self._done_at + TAIL_STEPS

    @property
    def counts(self) -> bool:
        """Whether the save that is due is one that counts."""
        return self._counted > 0

    def _note(self) -> None:
        self.boundaries.append(monotonic())
        self.cpu.append(cpu_seconds())
        self.memory.sample()

    def _due(self, step: int) -> bool:
        if step == WARM_STEPS:
            self.memory.begin()
            return True
        if step < WARM_STEPS or (self._settled_at is None and not self._watcher.idle):
            return False
        if self._settled_at is None:
            self._settled_at = step
        first = self._settled_at + 1 + self._spec.quiet
        due = step >= first and (step - first) % self._spec.every == 0 and self._counted < self._spec.saves
        self._counted += due
        return due


def run(spec: CourseSpec) -> dict[str, Any]:
    """Train and save; the times, or what the method refused with."""
    torch.set_num_threads(spec.threads)
    directory = Path(spec.directory)
    workload = build(spec.workload, spec.llama)
    trainer = make_trainer(workload, directory)
    method = METHODS[spec.method](trainer, directory)
    before = os.getloadavg()[0]
    try:
        method.setup()
        record = _train(spec, trainer, method)
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}", "about": workload.about}
    return {**record, "about": workload.about, "load": [before, os.getloadavg()[0]]}


def make_trainer(workload: Workload, directory: Path) -> Trainer:
    """A stock Trainer on the CPU that neither logs nor evaluates, and saves when it is told to."""
    disable_progress_bar()
    warnings.simplefilter("ignore")
    arguments = TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=workload.batch,
        max_steps=ENDLESS,
        learning_rate=2e-5,
        save_strategy="steps",
        save_steps=ENDLESS,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    optimizers: Any = (workload.optimizer, None)
    return Trainer(model=workload.model, args=arguments, train_dataset=workload.data, optimizers=optimizers)


def time_saves(trainer: Any, method: Method, watcher: Watcher, ruler: Ruler) -> None:
    """Let the method save wherever the trainer would, and time it."""
    stock = trainer._save_checkpoint

    def timed(model: Any, trial: Any, *args: Any, **kwargs: Any) -> None:
        if not ruler.asked:
            return
        method.trainer_save = lambda: stock(model, trial, *args, **kwargs)
        method.held()
        save = Save(trainer.state.global_step, ruler.counts, monotonic())
        method.save(save.step)
        save.returned = monotonic()
        ruler.memory.sample()
        watcher.follow(save)

    trainer._save_checkpoint = timed


def _train(spec: CourseSpec, trainer: Any, method: Method) -> dict[str, Any]:
    watcher = Watcher(method, monotonic)
    ruler = Ruler(spec, watcher)
    trainer.add_callback(ruler)
    trainer.add_callback(_Held(method, watcher))
    time_saves(trainer, method, watcher, ruler)
    trainer.train()
    watcher.close()
    record = {
        "start": ruler.boundaries[0],
        "boundaries": [time - ruler.boundaries[0] for time in ruler.boundaries],
        "cpu": [seconds - ruler.cpu[0] for seconds in ruler.cpu],
        "saves": [_relative(save, ruler.boundaries[0]) for save in watcher.saves],
        "peak": ruler.memory.peak,
        "state_bytes": state_bytes(trainer),
        "warm_steps": WARM_STEPS,
    }
    method.close()
    return record


class _Held(TrainerCallback):
    """Adds what a method held the training after its save call to that save."""

    def __init__(self, method: Method, watcher: Watcher) -> None:
        self._method = method
        self._watcher = watcher

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The gate lies between two step ends."""
        if self._watcher.saves:
            self._watcher.saves[-1].held += self._method.held()


def _relative(save: Save, start: float) -> dict[str, Any]:
    times = {name: getattr(save, name) - start for name in ("began", "returned", "claimed", "durable")}
    return {**save.to_json(), **times}
