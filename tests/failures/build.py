"""A small model, its data, a Trainer around them, and callbacks that crash it or look at it."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

import keepstep
from keepstep import Checkpoint, Checkpointer, Metric, Receipt
from keepstep.run import Run
from tests.engine import chosen

EPOCH_STEPS = 6
ARGUMENTS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "num_train_epochs": 2,
    "learning_rate": 1e-2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_steps": 2,
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
}
"""12 steps, evaluated, logged and saved every 2."""

Scores = Mapping[int, float | None]
"""What an evaluation finds at each step; None leaves the metric out."""


class Crashed(Exception):
    """Ends a training from inside."""


class CrashAfter(TrainerCallback):
    """Ends the training when `step` is done, logged, evaluated and saved."""

    def __init__(self, step: int, error: type[BaseException] = Crashed) -> None:
        self.step = step
        self.error = error

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise self.error(f"after step {self.step}")


class At(TrainerCallback):
    """Calls back when the training stands at `step`: before its next step, and what `event` says."""

    def __init__(self, step: int, call: Callable[..., None], event: str = "on_step_begin") -> None:
        def on_event(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                if self.checkpointer is not None:
                    self.checkpointer.wait()
                call(**kwargs)

        self.checkpointer: Checkpointer | None = None
        """Where it is set, what was saved before is on the disk first."""

        setattr(self, event, on_event)


def rows(count: int = 24, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Random token rows of length 8."""
    tokens = torch.randint(0, 64, (count, 8), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": row, "labels": row} for row in tokens]


def model(lora: Mapping[str, Any] | None = None) -> Any:
    """A Llama of one layer, with an adapter where `lora` has its settings."""
    set_seed(1)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, attention_dropout=0.1, max_position_embeddings=32,
    )  # fmt: skip
    base = LlamaForCausalLM(config)
    if lora is None:
        return base
    with warnings.catch_warnings():
        # peft asks for it
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], **lora))


def stock(
    out: Path,
    *,
    scores: Scores | None = None,
    score: str = "accuracy",
    lora: Mapping[str, Any] | None = None,
    data: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
    trainer_class: type[Trainer] = Trainer,
    optimizers: Any = (None, None),
    **arguments: Any,
) -> Trainer:
    """A plain Trainer. With `scores`, an evaluation at a step finds that value of `eval_<score>`."""
    trainer = trainer_class(
        model(lora),
        TrainingArguments(os.fspath(out), **{**ARGUMENTS, **arguments}),
        train_dataset=rows() if data is None else data,
        eval_dataset=rows(8, seed=9),
        data_collator=default_data_collator,
        callbacks=list(callbacks),
        optimizers=optimizers,
    )
    if scores is not None:

        def compute_metrics(_: Any) -> dict[str, float]:
            value = scores.get(trainer.state.global_step)
            return {"other": 1.0} if value is None else {score: value}

        trainer.compute_metrics = compute_metrics
    return trainer


def managed(
    out: Path,
    *,
    keep: Any = None,
    metric: Any = None,
    mode: Any = None,
    fresh: Any = "refuse",
    engine: str | None = None,
    **settings: Any,
) -> tuple[Trainer, Checkpointer]:
    """A Trainer with keepstep attached to it."""
    trainer = stock(out, **settings)
    options = {"engine": engine} if engine else chosen()
    checkpointer = keepstep.attach(trainer, keep=keep, metric=metric, mode=mode, fresh=fresh, **options)
    for callback in settings.get("callbacks", ()):
        if isinstance(callback, At):
            callback.checkpointer = checkpointer
    return trainer, checkpointer


def train(out: Path, resume: Any = None, **settings: Any) -> tuple[Trainer, Checkpointer]:
    """A managed training from its begin, or from `resume`, to its end."""
    trainer, checkpointer = managed(out, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, checkpointer


def crash(out: Path, after: int, resume: Any = None, *, attached: bool = True, **settings: Any) -> Trainer:
    """A training that ends by an exception after a step."""
    settings["callbacks"] = [*settings.get("callbacks", ()), CrashAfter(after)]
    trainer = managed(out, **settings)[0] if attached else stock(out, **settings)
    try:
        trainer.train(resume_from_checkpoint=resume)
    except Crashed:
        return trainer
    raise AssertionError("the training did not crash")


class Interrupted(Trainer):
    """Calls `interrupt` inside the save of step 6, in the middle of a file's turn."""

    point = ""
    interrupt: Callable[[], None]

    def _at(self, point: str) -> None:
        if point == self.point and self.state.global_step == 6:
            type(self).interrupt()

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        self._at("before the weights")
        super().save_model(*args, **kwargs)
        self._at("after the weights")

    def _save_rng_state(self, output_dir: str) -> None:
        self._at("before the random states")
        super()._save_rng_state(output_dir)


SAVE_POINTS = ("before the weights", "after the weights", "before the random states")


def interrupted_at(point: str, interrupt: Callable[[], None]) -> type[Trainer]:
    """A Trainer class that is interrupted at a point of the save of step 6."""
    return type("Interrupted", (Interrupted,), {"point": point, "interrupt": staticmethod(interrupt)})


def in_child(work: Callable[[], str]) -> tuple[int, str]:
    """Do work in a forked process; returns its exit code (negative: the signal that ended it) and the text."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # python 3.12 warns of any fork beside threads
        child = os.fork()
    if child == 0:
        _work_and_exit(work, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def _work_and_exit(work: Callable[[], str], writer: int) -> None:
    try:
        os.write(writer, work().encode())
        os._exit(0)
    except BaseException:
        os.write(writer, traceback.format_exc().encode())
        os._exit(1)


def receipt(checkpointer: Checkpointer) -> Receipt:
    """The receipt of the last resume, which there must be."""
    assert checkpointer.receipt is not None
    return checkpointer.receipt


def best(checkpointer: Checkpointer) -> Checkpoint:
    """The best checkpoint, which there must be."""
    assert checkpointer.run.best is not None
    return checkpointer.run.best


def latest(checkpointer: Checkpointer) -> Checkpoint:
    """The newest checkpoint, which there must be."""
    assert checkpointer.run.latest is not None
    return checkpointer.run.latest


def metric(checkpointer: Checkpointer) -> Metric:
    """The metric to rank by, which there must be."""
    assert checkpointer.policy.metric is not None
    return checkpointer.policy.metric


def weights(source: Any) -> dict[str, torch.Tensor]:
    """A copy of a model's parameters."""
    return {name: parameter.detach().clone() for name, parameter in source.named_parameters()}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """True when all parameters are equal, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def names(out: Path) -> list[str]:
    """Checkpoint directories on disk, in the order of their steps."""
    found = [p.name for p in out.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return sorted(found, key=lambda name: (len(name), name))


def steps(out: Path) -> list[int]:
    """Steps of the run's committed checkpoints, in the order of their commits."""
    return [checkpoint.step for checkpoint in Run.open(out).checkpoints]


def logged(trainer: Trainer, key: str) -> list[int]:
    """Steps at which a value was logged."""
    return [entry["step"] for entry in trainer.state.log_history if key in entry]


def events(out: Path, event: str) -> list[dict[str, Any]]:
    """Entries of one kind in the event log."""
    return [entry for entry in Run.open(out).events.read() if entry["event"] == event]


def unlocked(out: Path) -> bool:
    """True when nobody holds the run's lock."""
    with Run.open(out).writing():
        return True


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
