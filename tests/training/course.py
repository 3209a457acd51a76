"""One training in a process of its own: how it is built, where it is killed, and what it leaves to compare."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import safetensors.torch
import torch
from peft import PeftModel
from tqdm import tqdm
from transformers import LlamaForCausalLM, Trainer, TrainerCallback

import keepstep
from keepstep.checkpointer import Checkpointer
from keepstep.formats.sink import FileSink
from keepstep.integrations.transformers.resuming import epochs, loop
from keepstep.integrations.transformers.resuming.loop_state import LoopState
from keepstep.run import Observer
from keepstep.stores import LocalStore
from tests.engine import chosen
from tests.training.tiny import Recipe, build, model

EVENTS = {
    "save": "on_save", "evaluation": "on_evaluate", "log": "on_log", "step": "on_step_end", "epoch": "on_epoch_end",
    "end": "on_train_end",
}  # fmt: skip
STORE_CALLS = (
    "make_directory", "write", "append", "replace", "sync_file", "sync_directory", "rename", "exchange", "delete",
)  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """SIGKILL at the `nth` time of `what`: a callback event, or, inside save number `save`, a writer.

    A call of the store dies before it is carried out; "torch.save", "weights" and "loop state" leave half a file.
    `settled` waits, at a callback event, for what is being saved.
    """

    what: str
    nth: int = 1
    save: int | None = None
    settled: bool = False

    def __str__(self) -> str:
        return f"{self.what} {self.nth}" + ("" if self.save is None else f" of save {self.save}")


@dataclass(frozen=True)
class Job:
    """What one child does. `sabotage` names what is broken on purpose, to show that the comparison sees it."""

    recipe: Recipe
    directory: Path
    outcome: Path
    kills: tuple[Kill, ...] = ()
    resume: str | None = "auto"
    managed: bool = True
    sabotage: str | None = None
    also: dict[str, Any] = field(default_factory=dict)
    """Arguments that differ from the recipe's in this child alone."""


def train(job: Job) -> None:
    """Build, train, and write the outcome; or die on the way."""
    settle()
    recipe = job.recipe
    recipe.arguments.update(job.also)
    fresh = not list(job.directory.glob("checkpoint-*"))
    trainer = build(recipe, job.directory)
    if job.managed and not hasattr(trainer, "checkpointer"):
        keepstep.attach(trainer, **{**chosen(), **recipe.keepstep})
    if job.sabotage is not None:
        _SABOTAGES[job.sabotage]()
    for kill in job.kills:
        set_trap(trainer, kill)
    counter = StepCounter()
    trainer.add_callback(counter)
    if recipe.reseed:
        torch.manual_seed(100 if fresh else int.from_bytes(os.urandom(4)))
    output = trainer.train(resume_from_checkpoint=job.resume)
    leave(trainer, output, counter.steps, job.outcome)


def settle() -> None:
    """What a process that was forked from the server does before anything else."""
    torch.set_num_threads(1)
    gc.freeze()
    # A child of the fork server would have servers of its own for its data loader's workers.
    multiprocessing.set_start_method("fork", force=True)
    # A SIGKILL takes nothing from the page cache; what a power cut takes is tested elsewhere.
    os.fsync = lambda descriptor: None
    # The server's would be all its children's, and held for ever once one is killed that was writing.
    tqdm.set_lock(threading.RLock())
    _forget_the_server()


def leave(trainer: Trainer, output: Any, steps: int, outcome: Path) -> None:
    """Everything that a later comparison reads, in the directory `outcome`."""
    outcome.mkdir(parents=True)
    random_state = {"torch": torch.random.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}
    trainer.save_model(str(outcome / "final"))
    optimizer, scheduler = trainer.optimizer.state_dict(), trainer.lr_scheduler.state_dict()
    weights = trainer.model.state_dict()
    state = {"weights": weights, "optimizer": optimizer, "scheduler": scheduler, "random": random_state}
    torch.save(state, outcome / "final.pt")
    receipt = trainer.checkpointer.receipt if hasattr(trainer, "checkpointer") else None
    facts = {
        "history": trainer.state.log_history,
        "training_loss": output.training_loss,
        "metrics": output.metrics,
        "global_step": trainer.state.global_step,
        "best": trainer.state.best_model_checkpoint and Path(trainer.state.best_model_checkpoint).name,
        "steps trained": steps,
        "receipt": receipt and receipt.to_json(),
    }
    (outcome / "outcome.json").write_text(json.dumps(facts))


def load_with_stock_tools(checkpoint: Path, adapter: bool) -> None:
    """`from_pretrained` of a committed checkpoint, as a user without keepstep would call it."""
    if adapter:
        loaded = PeftModel.from_pretrained(model(Recipe()), checkpoint)
        assert any("lora_A" in name for name, _ in loaded.named_parameters())
    else:
        loaded = LlamaForCausalLM.from_pretrained(checkpoint)
        stored = safetensors.torch.load_file(checkpoint / "model.safetensors")
        assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in stored.items())


class StepCounter(TrainerCallback):
    """Counts the optimizer steps that this process trains."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps += 1


def _forget_the_server() -> None:
    """A forked child shares its generators' state with its siblings; a program that is started anew does not."""
    random.seed(os.urandom(8))
    np.random.seed(int.from_bytes(os.urandom(4)))
    torch.manual_seed(int.from_bytes(os.urandom(4)))


# -- dying -----------------------------------------------------------------------------------------------


def die() -> NoReturn:
    """SIGKILL to this process, as the system's out-of-memory killer sends it."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class Trap:
    """Counts calls while the save that it waits for is under way; says when its hour has come."""

    def __init__(self, kill: Kill) -> None:
        self._kill = kill
        self._calls = 0
        self._saves = 0
        self.inside = False

    def save_begins(self) -> None:
        self._saves += 1
        self.inside = self._saves == self._kill.save

    def springs(self) -> bool:
        """True at the call that is to be the last."""
        if self._kill.save is not None and not self.inside:
            return False
        self._calls += 1
        return self._calls == self._kill.nth


def set_trap(trainer: Trainer, kill: Kill) -> None:
    """Make this process die where `kill` says."""
    trap = Trap(kill)
    if kill.what in EVENTS:
        wait = trainer.checkpointer.wait if kill.settled else None
        trainer.add_callback(_callback_that_dies(EVENTS[kill.what], trap, wait))
        return
    _watch_saves(trap)
    if kill.what in STORE_CALLS:
        _trap_store(trap, kill.what)
    else:
        _WRITERS[kill.what](trap)


def _callback_that_dies(event: str, trap: Trap, wait: Callable[[], None] | None) -> TrainerCallback:
    def die_here(*_: Any, **__: Any) -> None:
        if trap.springs():
            if wait is not None:
                wait()
            die()

    callback = TrainerCallback()
    setattr(callback, event, die_here)
    return callback


def _watch_saves(trap: Trap) -> None:
    stage, complete = Checkpointer.save_in_background, Checkpointer._complete

    def save_in_background(self: Checkpointer, *arguments: Any, **options: Any) -> None:
        self.wait()
        trap.save_begins()
        stage(self, *arguments, **options)

    def complete_it(self: Checkpointer, *arguments: Any) -> None:
        complete(self, *arguments)
        self._dispose_now()
        trap.inside = False

    Checkpointer.save_in_background, Checkpointer._complete = save_in_background, complete_it


def _trap_tensor_file(trap: Trap) -> None:
    original = FileSink.write

    def write(self: FileSink, *arguments: Any) -> None:
        if trap.springs():
            die()
        original(self, *arguments)

    FileSink.write = write


def _trap_store(trap: Trap, name: str) -> None:
    original = getattr(LocalStore, name)

    def call(*arguments: Any, **options: Any) -> Any:
        if trap.springs():
            die()
        return original(*arguments, **options)

    setattr(LocalStore, name, call)


def _trap_torch(trap: Trap) -> None:
    original = torch.save

    def save(value: Any, file: Any, *arguments: Any, **options: Any) -> None:
        original(value, file, *arguments, **options)
        # The engine lets it write around holes, into memory, to learn the file's layout.
        if isinstance(file, (str, os.PathLike)) and trap.springs():
            _halve(Path(file))

    torch.save = save
    _trap_finished_files(trap, "optimizer.pt")


def _trap_weights(trap: Trap) -> None:
    original = safetensors.torch.save_file

    def save_file(tensors: Any, path: Any, *arguments: Any, **options: Any) -> None:
        original(tensors, path, *arguments, **options)
        if trap.springs():
            _halve(Path(path))

    for module in list(sys.modules.values()):
        for name in [name for name, value in vars(module).items() if value is original]:
            setattr(module, name, save_file)
    _trap_finished_files(trap, ".safetensors")


def _trap_finished_files(trap: Trap, ending: str) -> None:
    original = FileSink.finish

    def finish(self: FileSink) -> None:
        original(self)
        if self.path.name.endswith(ending) and trap.springs():
            _halve(self.path)

    FileSink.finish = finish


def _halve(path: Path) -> NoReturn:
    os.truncate(path, path.stat().st_size // 2)
    die()


def _trap_loop_state(trap: Trap) -> None:
    original = LoopState.write

    def write(self: LoopState, directory: Path, rank: int = 0) -> None:
        original(self, directory, rank)
        if trap.springs():
            path = directory / "keepstep_state.json"
            os.truncate(path, path.stat().st_size // 2)
            die()

    LoopState.write = write


_WRITERS = {
    "tensor file": _trap_tensor_file,
    "torch.save": _trap_torch,
    "weights": _trap_weights,
    "loop state": _trap_loop_state,
}


# -- negative controls -----------------------------------------------------------------------------------


def _lose_loop_state() -> None:
    LoopState.read = classmethod(lambda cls, directory, rank: None)


def _lose_epoch_start() -> None:
    original = LoopState.read
    LoopState.read = classmethod(lambda cls, directory, rank: replace(original(directory, rank), epoch_start=None))


def _lose_sampler_seed() -> None:
    loop.sampler_of = lambda loader: None


def _lose_random_state() -> None:
    epochs.Epochs.load_random_state = lambda self, load: None


def _lose_comparison() -> None:
    Observer.take = Observer.end = lambda self, *row: None


_SABOTAGES = {
    "loop state": _lose_loop_state,
    "epoch start": _lose_epoch_start,
    "sampler seed": _lose_sampler_seed,
    "random state": _lose_random_state,
    "comparison of the course": _lose_comparison,
}
