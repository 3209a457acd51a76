"""A subject played: left alone, interrupted and resumed by the stock Trainer; interrupted and resumed by ours."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import pickle
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import EvalLoopOutput

import keepstep
from keepstep.errors import KeepstepError, ResumeRefused
from tests.engine import chosen
from tests.failures.build import CrashAfter, Crashed, in_child
from tests.matrix.subject import Subject
from tests.matrix.values import Values, difference, shake, share, states, trained
from tests.matrix.verdict import Ending, Row, Share

MEMORY = Path("/dev/shm")
SAVED, STEPS = 2, 4
"""The step at which it is saved and interrupted, and the last."""
SCORES = {SAVED: 0.9, STEPS: 0.3}
"""What the evaluations find: the best is not the last."""
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "learning_rate": 1e-2,
    "weight_decay": 0.01, "logging_steps": 1, "save_strategy": "steps", "save_steps": SAVED, "eval_strategy": "steps",
    "eval_steps": SAVED, "metric_for_best_model": "eval_score",
    "greater_is_better": True, "remove_unused_columns": False, "use_cpu": True, "report_to": "none",
    "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 11,
}  # fmt: skip
ROWS = 6
"""Rows of the data: an epoch ends with step 3."""


class Scored(Trainer):
    """A Trainer whose evaluations find `SCORES`, without running the model."""

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        nothing: Any = None
        return EvalLoopOutput(nothing, None, {"eval_score": SCORES[self.state.global_step]}, 1)


class _Packed:
    """An attribute whose value is kept as bytes."""

    def __set_name__(self, _: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, owner: Any, _: Any = None) -> Any:
        return pickle.loads(vars(owner)[self._name])

    def __set__(self, owner: Any, value: Any) -> None:
        vars(owner)[self._name] = pickle.dumps(value)


class Probe(TrainerCallback):
    """Copies what trains: where a training begins, where it was saved, and at its end before the best is loaded.

    The copies are bytes: tensors that a callback keeps would be saved with the training, as averages are.
    """

    begun = _Packed()
    begun_states = _Packed()
    saved = _Packed()
    saved_states = _Packed()
    ended = _Packed()

    def __init__(self) -> None:
        self.begun = self.saved = self.ended = None
        self.begun_states = self.saved_states = {}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        self.begun, self.begun_states = trained(model), states(model, optimizer)

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        if state.global_step == SAVED:
            self.saved, self.saved_states = trained(model), states(model, optimizer)
        elif state.global_step == STEPS:
            self.ended = trained(model)


@dataclass
class Life:
    """One process's part of a training: the trainer with its probe, and what keepstep said."""

    trainer: Trainer
    probe: Probe
    error: Exception | None = None
    said: list[str] = field(default_factory=list)

    @property
    def course(self) -> tuple[Values, list[dict[str, Any]]]:
        """The weights at the end and the log."""
        assert self.probe.ended is not None
        return self.probe.ended, self.trainer.state.log_history


def memory() -> Path | None:
    """A directory in memory, where there is one."""
    return MEMORY if os.access(MEMORY, os.W_OK) else None


def row(group: str, subject: Subject, *, control: bool = True) -> Row:
    """Play a subject; its files are thrown away. Without `control` the stock Trainer resumes nothing."""
    began = time.monotonic()
    if missing := subject.missing():
        return Row(group, subject.name, Ending(), Ending(), missing=missing)
    gc.collect()
    gc.freeze()  # every train() collects garbage; half a second each over what the imports left
    with tempfile.TemporaryDirectory(dir=memory(), ignore_cleanup_errors=True) as temporary, _quiet():
        home = Path(temporary).resolve()
        saved = _trained(_life(subject, home / "stock", first=True)) if control else None
        # Where the best can't be loaded, the log of the training lacks its last line.
        known = saved is not None and saved.error is None
        whole = saved if known else _trained(_life(subject, home / "whole", first=True, saves=False))
        if whole.error is not None:
            failed = Ending(error=f"left alone: {_short(whole.error)}")
            return Row(group, subject.name, failed, failed, time.monotonic() - began)
        stock = _homeless(_stock_resumed(subject, home, saved, whole), home / "stock") if saved else Ending()
        ours = _homeless(_ours_resumed(subject, home, whole), home / "ours")
    return Row(group, subject.name, stock, ours, time.monotonic() - began, killed=subject.killed)


def _life(subject: Subject, out: Path, *, first: bool, saves: bool = True) -> Life:
    """A trainer with its model, which other seeds built in the first life than in later ones."""
    arguments = {**SETTINGS, "load_best_model_at_end": saves, **subject.arguments}
    if not saves:
        arguments["save_strategy"] = "no"
    set_seed(1 if first else 2)
    model = subject.build(first)
    shake(model, 1 if first else 2)
    probe = Probe()
    callbacks = [*(one() for one in subject.callbacks), *((one() for one in subject.saboteurs) if first else ()), probe]
    optimizer = subject.optimizer(model, first) if subject.optimizer else None
    trainer = Scored(
        model,
        TrainingArguments(os.fspath(out), **arguments),
        train_dataset=subject.inputs.rows(ROWS, seed=1),  # pyright: ignore[reportArgumentType]
        eval_dataset=subject.inputs.rows(2, seed=2),  # pyright: ignore[reportArgumentType]
        data_collator=subject.inputs.batch,
        optimizers=(optimizer, None),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return Life(trainer, probe)


def _trained(life: Life, resume: Any = None) -> Life:
    """A life trained to its end, or to the error that ends it."""
    with _heard(life.said):
        try:
            life.trainer.train(resume_from_checkpoint=resume)
        except Exception as error:
            life.error = error
    return life


# -- the stock Trainer ---------------------------------------------------------------------------------------


def _stock_resumed(subject: Subject, home: Path, saved: Life, whole: Life) -> Ending:
    """The stock Trainer's resume of what it saved itself, and the best at the end of the life that saved it."""
    best = _loaded(saved)

    def resumed() -> Ending:
        life = _life(subject, home / "stock", first=False)
        checkpoint = os.fspath(home / "stock" / f"checkpoint-{SAVED}")
        return _with(_ending(_trained(life, checkpoint), whole, saved, "train_loss"), best=best)

    return _apart(resumed, home / "stock.pt") if subject.fragile else resumed()


def _loaded(life: Life) -> Share:
    """The share of what was saved that a life has with the best at its end."""
    if life.error is not None:
        return Share(0, 1, error=_short(life.error))
    assert life.probe.saved is not None
    return share(life.probe.saved, trained(life.trainer.model))


# -- ours ----------------------------------------------------------------------------------------------------


def _ours_resumed(subject: Subject, home: Path, whole: Life) -> Ending:
    out = home / "ours"
    try:
        saved = _killed(subject, out) if subject.killed else _crashed(subject, out)
    except Exception as error:
        return Ending(error=f"while it was saved: {_short(error)}")

    def resumed() -> Ending:
        life = _life(subject, out, first=False)
        checkpointer = keepstep.attach(life.trainer, **chosen())
        ending = _ending(_trained(life, "auto"), whole, saved)
        receipt = checkpointer.receipt
        if receipt is not None:
            ending = _with(ending, level=receipt.level.value, why=tuple(reason.text for reason in receipt.reasons))
        if ending.refusal:
            return _with(ending, best=_best_of_one(subject, home / "ours, left alone"))
        if ending.error:
            return ending
        assert saved.probe.saved is not None
        return _with(ending, best=share(saved.probe.saved, trained(life.trainer.model)))

    return _apart(resumed, home / "ours.pt") if subject.fragile else resumed()


def _crashed(subject: Subject, out: Path) -> Life:
    """A first life that ends by an exception, once what it saved is on the disk; nothing of it is used again."""
    life = _life(subject, out, first=True)
    checkpointer = keepstep.attach(life.trainer, **chosen())
    life.trainer.add_callback(CrashAfter(SAVED))
    _trained(life)
    if not isinstance(life.error, Crashed):
        raise life.error or AssertionError("it was not interrupted")
    checkpointer.wait()
    return life


def _killed(subject: Subject, out: Path) -> Life:
    """The same with a SIGKILL, in a process of its own."""
    left = out.parent / "saved.pt"

    class Kill(TrainerCallback):
        checkpointer: Any = None

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == SAVED:
                self.checkpointer.wait()
                torch.save((probe.saved, probe.saved_states), left)
                os.kill(os.getpid(), 9)

    probe = Probe()

    def live() -> str:
        life, kill = _life(subject, out, first=True), Kill()
        kill.checkpointer = keepstep.attach(life.trainer, **chosen())
        nonlocal probe
        probe = life.probe
        life.trainer.add_callback(kill)
        life.trainer.train()
        return "it was not killed"

    code, text = in_child(live)
    if code != -9:
        raise AssertionError(text.strip().rpartition("\n")[2])
    probe.saved, probe.saved_states = torch.load(left, weights_only=False)
    return Life(None, probe)  # pyright: ignore[reportArgumentType]


def _best_of_one(subject: Subject, out: Path) -> Share:
    """The best at the end of a training that nothing interrupts."""
    life = _life(subject, out, first=True)
    keepstep.attach(life.trainer, **chosen())
    return _loaded(_trained(life))


def _apart(resumed: Callable[[], Ending], left: Path) -> Ending:
    """A resume in a process of its own, which it may end."""

    def child() -> str:
        faulthandler.disable()  # what it dies of is in its exit code
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        torch.save(resumed(), left)
        return ""

    code, text = in_child(child)
    if left.exists():
        return torch.load(left, weights_only=False)
    return Ending(error=f"signal {-code}" if code < 0 else text.strip().rpartition("\n")[2])


# -- both ----------------------------------------------------------------------------------------------------


def _ending(life: Life, whole: Life, saved: Life, uncompared: str = "") -> Ending:
    """How a resumed life ended, beside the whole one and what had been saved; without the best at its end.

    `uncompared` is a value of the log that is left out.
    """
    probe, before = life.probe, saved.probe
    assert before.saved is not None
    refused = isinstance(life.error, ResumeRefused)
    warned = tuple(text for text in life.said if text.startswith("WARNING") and "load" in text)
    if probe.begun is None:
        # Ended while it was loaded: what is there now is all that it got.
        found = share(before.saved, trained(life.trainer.model))
        text = _short(life.error)
        return Ending(found, refusal=text if refused else "", error="" if refused else text, warned=warned)
    ending = Ending(
        share(before.saved, probe.begun), state=share(before.saved_states, probe.begun_states), warned=warned
    )
    if probe.ended is None:
        text = _short(life.error)
        return _with(ending, refusal=text) if refused else _with(ending, error=text)
    if isinstance(life.error, KeepstepError):
        return _with(ending, error=_short(life.error))
    return _with(ending, off=difference(whole.course, life.course, uncompared))


def _with(ending: Ending, **changes: Any) -> Ending:
    return Ending(**{**vars(ending), **changes})


def _homeless(ending: Ending, out: Path) -> Ending:
    """The same without the place of this run in what was said."""
    refusal, error = (text.replace(f"{out}/", "") for text in (ending.refusal, ending.error))
    return _with(ending, refusal=refusal, error=error)


def _short(error: Any) -> str:
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, KeepstepError) else f"{type(error).__name__}: {text}"


@contextmanager
def _heard(lines: list[str]) -> Iterator[None]:
    """Collects what keepstep logs."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname}: {record.getMessage()}")

    listener, logger = Listener(), logging.getLogger("keepstep")
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)


@contextmanager
def _quiet() -> Iterator[None]:
    """Upstream's warnings are its own affair; ours are errors."""
    level = transformers.logging.get_verbosity()
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    silent, logger = logging.NullHandler(), logging.getLogger("keepstep")
    logger.addHandler(silent)
    propagates, logger.propagate = logger.propagate, False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", module=r"keepstep")
        try:
            yield
        finally:
            transformers.logging.set_verbosity(level)
            logger.propagate = propagates
            logger.removeHandler(silent)
