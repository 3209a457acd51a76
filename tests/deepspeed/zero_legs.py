"""Trainings with DeepSpeed: several of them, one after the other, in processes that are started once."""

from __future__ import annotations

import gc
import json
import os
import signal
import traceback
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.deepspeed import cpu_deepspeed  # isort: skip - before anything of DeepSpeed's
from accelerate.state import AcceleratorState
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from transformers import TrainerCallback

import keepstep
from keepstep.snapshot import watch
from tests.sharded.faults import Fault, inject
from tests.sharded.legs import AtStep, Outcome, digest, prepare
from tests.training.course import settle
from tests.training.ranked import run_ranks
from tests.training.tiny import Recipe, build


@dataclass(frozen=True)
class Leg:
    """One training of all ranks: `copy` is the run that it goes on with a copy of, up to the checkpoint of a step.

    `stage` is ZeRO's, None for a training without DeepSpeed; `zero` are further settings of it. `flips` are steps, and
    a file of the checkpoint of each in which a bit is turned before. `faults` are by rank. `limits` are seconds between
    signs of life, without one, and after a failure, where they are to be short.
    """

    name: str
    stage: int | None = 2
    lora: bool = False
    bf16: bool = False
    zero: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    keepstep: dict[str, Any] = field(default_factory=dict)
    scores: dict[int, float] | None = None
    copy: str = ""
    upto: int = 0
    flips: tuple[tuple[int, str], ...] = ()
    resume: Any = "auto"
    faults: tuple[tuple[int, Fault], ...] = ()
    limits: tuple[float, float, float] | None = None
    victim: tuple[int, int] = (-1, 0)
    """The rank that is killed, and at the end of which step."""


def ride(home: Path, *legs: Leg, world: int = 2) -> list[int]:
    """Carry out the legs with so many ranks; returns their exit codes."""
    return run_ranks(home, ride_as, home, legs, world=world)


def ride_as(rank: int, home: Path, legs: tuple[Leg, ...]) -> None:
    settle()
    if "RANK" not in os.environ:  # as torchrun starts one process
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        os.environ |= alone
    cpu_deepspeed.allow()
    _tell_of_files()
    for leg in legs:
        print(f"LEG {leg.name}", flush=True)
        found = _train(rank, home, leg)
        (home / f"{leg.name}-{rank}.json").write_text(json.dumps(found.__dict__))
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
        gc.collect()


def _train(rank: int, home: Path, leg: Leg) -> Outcome:
    run = home / leg.name
    if rank == 0:
        prepare(home, leg)
    if leg.limits is not None:
        watch.BEAT, watch.PATIENCE, watch.GRACE = leg.limits
    trainer = build(_recipe(leg), run)
    loaded = Loaded(trainer)
    trainer.add_callback(loaded)
    if leg.victim[0] == rank:
        trainer.add_callback(AtStep(leg.victim[1], partial(os.kill, os.getpid(), signal.SIGKILL)))
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
    try:
        keepstep.attach(trainer, **leg.keepstep)
        with inject([fault for whose, fault in leg.faults if whose == rank], trainer):
            trainer.train(resume_from_checkpoint=leg.resume)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return Outcome(error=str(error), kind=type(error).__name__, step=trainer.state.global_step)
    _leave_gathered(trainer, home / f"{leg.name}.pt")
    return _of(trainer, loaded)


def _of(trainer: Any, loaded: Loaded) -> Outcome:
    receipt, best = trainer.checkpointer.receipt, trainer.state.best_model_checkpoint
    weights, optimizer = state_of(trainer)
    history = [{k: v for k, v in row.items() if "runtime" not in k and "second" not in k}
               for row in trainer.state.log_history]  # fmt: skip
    return Outcome(
        weights=weights, optimizer=optimizer, loaded=loaded.state, history=repr([sorted(h.items()) for h in history]),
        receipt=receipt and receipt.to_json(), best=best and Path(best).name, step=trainer.state.global_step,
    )  # fmt: skip


def _recipe(leg: Leg) -> Recipe:
    arguments: dict[str, Any] = {"save_steps": 2, "num_train_epochs": 2, "bf16": leg.bf16}
    if leg.stage is not None:
        auto = dict.fromkeys(
            ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), "auto"
        )
        zero = {"stage": leg.stage, **leg.zero}
        deepspeed = {"zero_optimization": zero, "bf16": {"enabled": leg.bf16}, **auto, **leg.config}
        arguments |= {"use_cpu": False, "deepspeed": deepspeed}
    return Recipe("trainer", lora=leg.lora, rows=24, arguments=arguments | leg.arguments, scores=leg.scores)


def state_of(trainer: Any) -> list[str]:
    """Digests of what this rank holds: of the weights, and of the optimizer's state with its own copy of them."""
    model = {name: getattr(p, "ds_tensor", p).detach() for name, p in trainer.model.named_parameters()}
    zero = getattr(trainer.model_wrapped, "optimizer", None)
    masters = getattr(zero, "single_partition_of_fp32_groups", None) or getattr(
        zero, "fp32_partitioned_groups_flat", []
    )
    states = {str(n): {"master": one.detach(), **zero.optimizer.state[one]} for n, one in enumerate(masters)}
    return [digest(model), digest(states)]


def _leave_gathered(trainer: Any, path: Path) -> None:
    """The weights as DeepSpeed gathers them, in a file of rank 0's: what an export must equal."""
    engine = trainer.model_wrapped
    if not hasattr(engine, "zero_optimization_stage"):
        return
    if engine.zero_optimization_stage() == 3:
        state = engine._zero3_consolidated_16bit_state_dict()
    else:
        state = trainer.model.state_dict()
    if dist.get_rank() == 0:
        torch.save({name: tensor.detach().clone() for name, tensor in state.items()}, path)


def _tell_of_files() -> None:
    """Print the name of each file that DeepSpeed writes, to be counted."""
    save = TorchCheckpointEngine.save

    def told(self: Any, state_dict: Any, path: str) -> None:
        print("WRITES", Path(path).name, flush=True)
        save(self, state_dict, path)

    TorchCheckpointEngine.save = told


class Loaded(TrainerCallback):
    """What a training begins with, where it goes on from a checkpoint."""

    state: list[str] | None = None

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self.state = state_of(self._trainer)
