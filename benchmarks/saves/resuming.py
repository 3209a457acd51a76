"""How long it takes from files to a state that can train: cold and warm, verified and not."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.saves import disk
from benchmarks.saves.course import make_trainer, time_saves
from benchmarks.saves.methods import METHODS
from benchmarks.saves.methods.base import load_model, model_state
from benchmarks.saves.spec import CourseSpec
from benchmarks.saves.usage import Memory
from benchmarks.saves.watcher import Watcher, monotonic
from benchmarks.saves.workloads import build
from transformers import TrainerCallback

STEP = 2
COLD = "cold"
FRESH_STARTS = 2
Load = Callable[[], object]
"""What is timed."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to resume from what `method` has saved: `begin` makes ready and returns what is timed.

    `whole` times the Trainer's start until its first step, and takes off what a fresh start takes.
    """

    method: str
    begin: Callable[[Any, Path], Load]
    whole: bool = False


class Ready(Exception):
    """Raised where the first step would begin."""


class _StopAtFirstStep(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise Ready


class _SaveOnce(TrainerCallback):
    """Saves at one step and ends the training when that is durable."""

    counts = False

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.memory = Memory()
        self.asked = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Two decisions."""
        control.should_save = self.asked = state.global_step == STEP
        control.should_training_stop = state.global_step > STEP and self._watcher.idle


def prepare(spec: CourseSpec) -> dict[str, Any]:
    """Leave one checkpoint of a method in the directory."""
    torch.set_num_threads(spec.threads)
    directory = Path(spec.directory)
    trainer: Any = make_trainer(build(spec.workload, spec.llama), directory)
    method = METHODS[spec.method](trainer, directory)
    try:
        method.setup()
        watcher = Watcher(method, monotonic)
        once: Any = _SaveOnce(watcher)
        trainer.add_callback(once)
        time_saves(trainer, method, watcher, once)
        trainer.train()
        watcher.close()
        method.close()
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    return {"size": watcher.saves[0].size}


def resume(spec: CourseSpec, way: str, heat: str) -> dict[str, Any]:
    """Seconds to a ready state, `cold` or `warm`, and `fresh`, what a fresh start takes where that is in them.

    One load a process: a second one in the same process finds memory that the first has touched, or that it still
    holds, and says nothing of a resume, which is always the first.
    """
    torch.set_num_threads(spec.threads)
    chosen, directory = WAYS[way], Path(spec.directory)
    path = METHODS[chosen.method](None, directory).path(STEP)
    try:
        # The first start of a process takes longer, whatever it starts from.
        fresh = [_seconds(_new(spec).train) for _ in range(FRESH_STARTS)][-1] if chosen.whole else 0.0
        seconds, cached = _load(chosen, _new(spec), path, forget=heat == COLD)
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    return {heat: seconds - fresh, "fresh": fresh, "cached": cached, "load": os.getloadavg()[0]}


def _load(way: Way, trainer: Any, path: Path, *, forget: bool) -> tuple[float, float]:
    """Seconds, and the share of the files that was cached when they began. Raises RuntimeError when state lacks."""
    load = way.begin(trainer, path)
    if not forget:
        disk.read_through(path)
    cached = disk.forget(path) if forget else disk.cached(path)
    seconds = _seconds(load)
    trained = sum(parameter.requires_grad for parameter in trainer.model.parameters())
    ready = sum(bool(state["exp_avg_sq"].any()) for state in trainer.optimizer.state.values())
    if ready < trained // 2:  # a parameter without a gradient yet has no second moment
        raise RuntimeError(f"only {ready} of {trained} parameters have their optimizer state after the load")
    return seconds, cached


def _new(spec: CourseSpec) -> Any:
    trainer = make_trainer(build(spec.workload, spec.llama), Path(spec.directory))
    trainer.add_callback(_StopAtFirstStep())
    return trainer


def _seconds(run: Callable[[], object]) -> float:
    began = monotonic()
    with suppress(Ready):
        run()
    return monotonic() - began


def _by_trainer(trainer: Any, path: Path) -> Load:
    return lambda: trainer.train(resume_from_checkpoint=str(path))


def _by_keepstep(trainer: Any, path: Path) -> Load:
    import keepstep

    keepstep.attach(trainer)
    return lambda: trainer.train(resume_from_checkpoint="auto")


def _by_method(name: str, trainer: Any, path: Path) -> Load:
    """A method's own load, into objects that are there already."""
    method = METHODS[name](trainer, path.parent)
    trainer.create_optimizer_and_scheduler(num_training_steps=1000)
    method.setup()
    return lambda: method.load(STEP)


def _by_readers(verify: bool, trainer: Any, path: Path) -> Load:
    """keepstep's readers of stock files, in one pass, given the digests that its writer returns."""
    from keepstep.formats.reading import load_safetensors_into, load_torch

    trainer.create_optimizer_and_scheduler(num_training_steps=1000)
    weights, moments = next(path.glob("*.safetensors")), path / "optimizer.pt"
    chunks = {file: _chunk_digests(file) if verify else None for file in (weights, moments)}

    def load() -> None:
        state = model_state(trainer.model)
        load_safetensors_into(weights, _named_as_in_file(weights, state), chunks[weights])
        trainer.optimizer.load_state_dict(load_torch(moments, chunks[moments]))
        trainer.lr_scheduler.load_state_dict(torch.load(path / "scheduler.pt", weights_only=True))
        load_model(trainer.model, state)

    return load


def _chunk_digests(file: Path) -> tuple[str, ...]:
    from keepstep.formats.digests import Digester

    digester = Digester()
    digester.update(memoryview(file.read_bytes()))
    return digester.finish()[1]


def _named_as_in_file(file: Path, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A weight with two names may have the other one in the file."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        names = set(opened.keys())
    missing, extra = sorted(names - state.keys()), sorted(state.keys() - names)
    renamed = dict(zip(extra, missing, strict=True))
    return {renamed.get(name, name): tensor for name, tensor in state.items()}


WAYS: dict[str, Way] = {
    "keepstep": Way("keepstep", _by_keepstep, whole=True),
    "keepstep-readers": Way("keepstep", partial(_by_readers, True)),
    "keepstep-readers-unverified": Way("keepstep", partial(_by_readers, False)),
    "stock-trainer": Way("stock", _by_trainer, whole=True),
    "stock": Way("stock", partial(_by_method, "stock")),
    **{name: Way(name, partial(_by_method, name)) for name in ("dcp", "lightning", "moonclip", "orbax")},
}
"""By the names of `WAY_FACTS`."""
