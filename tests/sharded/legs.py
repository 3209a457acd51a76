"""Trainings of ranks that hold parts: several of them, one after the other, in processes that are started once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_optimizer_state_dict
from transformers import LlamaConfig, TrainerCallback

import keepstep
from keepstep.snapshot import watch
from tests.sharded import cpu_fsdp
from tests.sharded.faults import Fault, inject
from tests.training import tiny
from tests.training.course import settle
from tests.training.ranked import logs_of, run_ranks
from tests.training.tiny import Recipe, build

SHARDED, FULL = "SHARDED_STATE_DICT", "FULL_STATE_DICT"
STEPS = 6
"""Batches of 2 ranks in two epochs."""


@dataclass(frozen=True)
class Leg:
    """One training of all ranks: `copy` is the run that it goes on with a copy of, up to the checkpoint of a step.

    `flips` are steps, and a file of the checkpoint of each in which a bit is turned before. `faults` are by rank.
    `limits` are seconds between signs of life, without one, and after a failure, where they are to be short.
    """

    name: str
    kind: str = "trainer"
    state: str = SHARDED
    lora: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    keepstep: dict[str, Any] | None = field(default_factory=dict)
    """What `attach` is given; None for the stock Trainer."""
    scores: dict[int, float] | None = None
    copy: str = ""
    upto: int = 0
    flips: tuple[tuple[int, str], ...] = ()
    resume: Any = "auto"
    faults: tuple[tuple[int, Fault], ...] = ()
    fsdp: dict[str, Any] = field(default_factory=dict)
    rows: int = 24
    divided: bool = True
    limits: tuple[float, float, float] | None = None
    tied: bool = False
    preempt: tuple[int, int] = (-1, 0)
    """The rank that gets a SIGTERM, and at the end of which step."""
    counted: bool = False
    """Whether the messages of each save are counted."""
    elsewhere: bool = False
    """Whether each rank has an `output_dir` of its own, as where the disk of each node is its own."""


@dataclass(frozen=True)
class Outcome:
    """What one rank leaves of a leg; digests of the whole weights, and of the whole state of the optimizer."""

    error: str = ""
    kind: str = ""
    weights: str = ""
    optimizer: str = ""
    loaded: Any = None
    """The same two digests before the first step."""
    history: str = ""
    receipt: dict[str, Any] | None = None
    best: str | None = None
    step: int = 0
    sent: list[dict[str, int]] = field(default_factory=list)
    """Messages of each save, while the training waits."""


def ride(home: Path, *legs: Leg, world: int = 2) -> list[int]:
    """Carry out the legs with so many ranks; returns their exit codes."""
    return run_ranks(home, ride_as, home, legs, world=world)


def outcome(home: Path, leg: str, rank: int = 0) -> Outcome:
    """What a rank left of a leg."""
    path = home / f"{leg}-{rank}.json"
    assert path.is_file(), logs_of(home)
    return Outcome(**json.loads(path.read_text()))


def ride_as(rank: int, home: Path, legs: tuple[Leg, ...]) -> None:
    settle()
    if "RANK" not in os.environ:  # as torchrun starts one process
        os.environ |= {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "0",
        }
    for leg in legs:
        print(f"LEG {leg.name}", flush=True)
        found = _train(rank, home, leg)
        (home / f"{leg.name}-{rank}.json").write_text(json.dumps(found.__dict__))


def _meet() -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def _train(rank: int, home: Path, leg: Leg) -> Outcome:
    run = home / leg.name
    _meet()  # what a rank had in the way of the leg before is gone
    if rank == 0:
        prepare(home, leg)
    if leg.limits is not None:
        watch.BEAT, watch.PATIENCE, watch.GRACE = leg.limits
    if leg.divided:
        cpu_fsdp.allow()
    if leg.elsewhere and rank:
        run = home / f"{leg.name} of rank {rank}"
    with patch.object(tiny, "LlamaConfig", partial(LlamaConfig, tie_word_embeddings=leg.tied)):
        trainer = build(_recipe(leg), run)
    loaded = Loaded()
    trainer.add_callback(loaded)
    _meet()
    try:
        if leg.preempt[0] == rank:
            trainer.add_callback(AtStep(leg.preempt[1], partial(os.kill, os.getpid(), signal.SIGTERM)))
        if leg.keepstep is not None:
            keepstep.attach(trainer, **leg.keepstep)
        sent = _count_messages(trainer) if leg.counted else []
        with inject([fault for whose, fault in leg.faults if whose == rank], trainer):
            trainer.train(resume_from_checkpoint=leg.resume)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return Outcome(error=str(error), kind=type(error).__name__, step=trainer.state.global_step)
    return _of(trainer, loaded, sent)


def _count_messages(trainer: Any) -> list[dict[str, int]]:
    """Where the messages of each save of a trainer will be found."""
    from tests.sharded.fast_loop import sent

    found, saves = list[dict[str, int]](), trainer._keepstep.saves
    save = saves.save

    def counting(write_stock: Callable[[], None]) -> Any:
        with sent() as counts:
            committed = save(write_stock)
        found.append({name: count for name, count in counts.items() if count and "object" in name})
        return committed

    saves.save = counting
    return found


def _of(trainer: Any, loaded: Loaded, sent: list[dict[str, int]]) -> Outcome:
    receipt = trainer.checkpointer.receipt if hasattr(trainer, "checkpointer") else None
    weights, optimizer = state_of(trainer.model, trainer.optimizer)
    best = trainer.state.best_model_checkpoint
    history = [{k: v for k, v in row.items() if "runtime" not in k and "second" not in k}
               for row in trainer.state.log_history]  # fmt: skip
    return Outcome(
        weights=weights, optimizer=optimizer, loaded=loaded.state, history=repr([sorted(h.items()) for h in history]),
        receipt=receipt and receipt.to_json(), best=best and Path(best).name, step=trainer.state.global_step,
        sent=sent,
    )  # fmt: skip


def digest(state: dict[str, Any]) -> str:
    """Of tensors, by name, however deep."""
    state_of = hashlib.sha256()

    def take(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key in sorted(value):
                take(value[key], f"{name}.{key}")
        elif isinstance(value, torch.Tensor):
            state_of.update(name.encode() + value.contiguous().flatten().view(torch.uint8).numpy().tobytes())

    take(state, "")
    return state_of.hexdigest()[:16]


def _recipe(leg: Leg) -> Recipe:
    fsdp = {"fsdp": True, "fsdp_config": {"state_dict_type": leg.state, **leg.fsdp}} if leg.divided else {}
    arguments = {"save_steps": 2, "num_train_epochs": 2, **fsdp, **leg.arguments}
    return Recipe(leg.kind, lora=leg.lora, rows=leg.rows, arguments=arguments, scores=leg.scores, keepstep={})


def prepare(home: Path, leg: Leg) -> None:
    """Lay out the run that a leg goes on with."""
    run = home / leg.name
    if leg.copy:
        shutil.copytree(home / leg.copy, run, symlinks=True)
        shutil.rmtree(run / ".keepstep" / "trash", ignore_errors=True)
        for path in run.glob("checkpoint-*"):
            if int(path.name.rpartition("-")[2]) > leg.upto:
                shutil.rmtree(path)
    for step, path in leg.flips:
        flip(run / f"checkpoint-{step}" / path)


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        byte = file.read(1)[0]
        file.seek(size // 2)
        file.write(bytes([byte ^ 1]))


def state_of(model: Any, optimizer: Any) -> list[str]:
    """Digests of the whole weights, and of the whole state of the optimizer; all ranks ask at once."""
    options = StateDictOptions(full_state_dict=True)
    weights: Any = get_model_state_dict(model, options=options)
    moments: Any = get_optimizer_state_dict(model, optimizer.optimizer, options=options)
    return [digest(weights), digest(moments["state"])]


class Loaded(TrainerCallback):
    """What a training begins with, where it goes on from a checkpoint."""

    state: list[str] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self.state = state_of(kwargs["model"], kwargs["optimizer"])


class AtStep(TrainerCallback):
    """Calls something at the end of a step."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self._step, self._act = step, act

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            self._act()
