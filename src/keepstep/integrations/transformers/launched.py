"""A training that `keepstep run` started: managed where that is asked for, and watched while it lasts."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import MethodType
from typing import Any

from transformers import TrainerCallback

from keepstep.errors import KeepstepError
from keepstep.integrations.transformers.attaching import attach
from keepstep.integrations.transformers.managed import ManagedTrainer
from keepstep.integrations.transformers.setup import messages
from keepstep.integrations.transformers.setup.options import Options
from keepstep.model import parse_name
from keepstep.run import open_run

ATTACH, GO_ON = "KEEPSTEP_ATTACH", "KEEPSTEP_GO_ON"
"""Set: every Trainer is managed; and: the runs that an attempt before this one saved to."""
_TEXTS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_trained: set[str] = set()
"""Directories that a training of this process went through."""


def train(trainer: Any, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], marks: Any) -> Any:
    """`trainer.train(*args, **kwargs)` by the `train` that was called, watched; managed, where that is asked for.

    `marks` is how the process tells its supervisor. Raises what the training raises.
    """
    directory = os.path.realpath(str(trainer.args.output_dir))
    managed = isinstance(trainer, ManagedTrainer)
    why = "" if managed else _manage(trainer)
    anew = directory in _trained
    _trained.add(directory)
    with _watched(trainer, marks, directory, why):
        if why or (managed and not _is_passed_by(trainer)):
            return inner(trainer, *args, **kwargs)
        if not anew:  # a second training in one process is none to be resumed
            args, kwargs = _resuming(directory, args, kwargs)
        return type(trainer).train(trainer, *args, **kwargs)


def options(environment: Mapping[str, str]) -> dict[str, Any]:
    """`attach`'s options from `KEEPSTEP_KEEP`, `KEEPSTEP_BUDGET` and so on; hooks, which are functions, have none."""
    found: dict[str, Any] = {}
    for field in fields(Options):
        text = environment.get(f"KEEPSTEP_{field.name.upper()}")
        if text and "Hook" not in str(field.type):
            found[field.name] = _TEXTS.get(text.lower(), text) if field.type in ("bool", bool) else text
    return found


def _manage(trainer: Any) -> str:
    """Attach to a trainer; why it is not managed, or nothing where it is. Never raises: it trains as before then."""
    if not os.environ.get(ATTACH):
        return "keepstep run without --attach manages nothing"
    # A `train` that was put onto the instance has led here: as the managed class's it would begin once more.
    patch = vars(trainer).pop("train", None)
    try:
        _let_resume(trainer)
        attach(trainer, **options(os.environ))
        trainer._keepstep_by_launch = True
        return ""
    except Exception as error:
        vars(trainer).pop("train", None)
        why = str(error) if isinstance(error, KeepstepError) else repr(error)
        messages.make_visible()
        messages.logger.warning("this training is not managed, and trains as before: %s", why)
        return why
    finally:
        if patch is not None:
            trainer.train = patch


def _is_passed_by(trainer: Any) -> bool:
    """True where somebody's own `train` calls the one that it knew before the trainer was managed."""
    return hasattr(trainer, "_keepstep_by_launch") and not trainer._keepstep.active


def _let_resume(trainer: Any) -> None:
    """Let a `train(self)` without a parameter be given something to resume from: that is handed past it."""
    theirs = trainer.train
    kinds = [one.kind for one in inspect.signature(theirs).parameters.values()]
    if kinds and kinds[0] is not inspect.Parameter.KEYWORD_ONLY:
        return

    def train(self: Any, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._keepstep_handed = resume_from_checkpoint
        try:
            return theirs(**kwargs)
        finally:
            vars(self).pop("_keepstep_handed", None)

    trainer.train = MethodType(train, trainer)


def _resuming(directory: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with "auto" for what to resume from, where the script says nothing, True, or the newest."""
    given = args[0] if args else kwargs.get("resume_from_checkpoint")
    kwargs = {name: value for name, value in kwargs.items() if name != "resume_from_checkpoint"}
    if given is None or given is True or str(given).strip().lower() == "true" or _is_newest(given, directory):
        given = "auto"
    elif directory in os.environ.get(GO_ON, "").split(os.pathsep):
        messages.logger.info("resume from %r: it was, by an attempt before; this one goes on from the newest", given)
        given = "auto"
    return (given, *args[1:]), kwargs


def _is_newest(given: Any, directory: str) -> bool:
    """True for the path of the newest checkpoint in the run's directory: some launchers look for it themselves.

    Said as "auto", a damaged one gives way to the one before it.
    """
    if not isinstance(given, (str, os.PathLike)):
        return False
    path = Path(os.path.realpath(os.fspath(given)))
    if str(path.parent) != directory or not path.is_dir():
        return False
    try:
        steps = [found[1] for child in path.parent.iterdir() if (found := parse_name(child.name))]
        own = parse_name(path.name)
        return own is not None and own[1] == max(steps) and open_run(directory).managed
    except (OSError, KeepstepError):
        return False


@contextmanager
def _watched(trainer: Any, marks: Any, directory: str, why: str) -> Iterator[None]:
    """While it lasts, the supervisor can see how far the training is, and afterwards how it ended."""
    trainer._keepstep_watched = True
    beat, callback = None, None
    try:
        signal = marks.answer_dumps()
        beat = marks.Beat()
        beat(int(trainer.state.global_step), marks.STARTING)
        callback = _Beating(beat, marks)
        trainer.callback_handler.callbacks.insert(0, callback)
        marks.write("attached", {"output_dir": directory, "managed": not why, "why": why, "dump_signal": signal})
    except Exception as error:
        print(f"keepstep: this training is not watched: {error!r}", file=sys.stderr)
    try:
        yield
    except BaseException as error:
        marks.tell_end(error, step=int(trainer.state.global_step))
        raise
    finally:
        vars(trainer).pop("_keepstep_watched", None)
        callbacks = trainer.callback_handler.callbacks
        callbacks[:] = [one for one in callbacks if one is not callback]
        if beat is not None:
            beat(int(trainer.state.global_step), marks.IDLE)


class _Beating(TrainerCallback):
    """Beats whenever the loop comes by; what follows a step may take longer than a step."""

    def __init__(self, beat: Callable[[int, int], None], marks: Any) -> None:
        self._beat = beat
        self._marks = marks

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        beside = control.should_save or control.should_evaluate
        self._beat(state.global_step, self._marks.BESIDE if beside else self._marks.STEPPING)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._beat(state.global_step, self._marks.STEPPING)


def _beside(self: _Beating, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
    self._beat(state.global_step, self._marks.BESIDE)


for _event in (
    *("on_train_begin", "on_epoch_begin", "on_epoch_end"),
    *("on_prediction_step", "on_evaluate", "on_predict", "on_save"),
):
    setattr(_Beating, _event, _beside)
