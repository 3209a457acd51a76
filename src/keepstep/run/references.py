"""References to checkpoints as people write them: best, latest, 300, step:300, a tag, a path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keepstep.errors import CheckpointNotFound, ReferenceInvalid
from keepstep.model import Checkpoint
from keepstep.paths import expanded
from keepstep.run.pins import Pins
from keepstep.run.spelling import checkpoint_of, places, spelled

Reference = str | int | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Known:
    """What a reference can point to: the run's checkpoints by generation, its best one, its pins and tags."""

    run: Path
    checkpoints: Sequence[Checkpoint]
    best: Checkpoint | None
    why_no_best: str
    pins: Pins


def resolve(reference: Reference, known: Known) -> Checkpoint:
    """The checkpoint that a reference names. A file inside of one names it, and the run's directory its newest.

    Raises CheckpointNotFound, listing what there is, with a near miss where there is one; ReferenceInvalid.
    """
    try:
        reference = spelled(reference)
    except ReferenceInvalid as error:
        raise ReferenceInvalid(error.message, hint=f"{error.hint} {_what_there_is(known)}") from error
    if isinstance(reference, int):
        return _by_step(reference, known)
    if not isinstance(reference, str):
        return _by_path(Path(reference), known)
    text = reference.strip()
    if text == "best":
        return _best(known)
    if text == "latest":
        return _latest(known)
    digits = text.removeprefix("step:")
    if digits.isascii() and digits.isdigit():
        return _by_step(int(digits), known)
    if text in known.pins.tags:
        return _by_tag(text, known)
    if os.sep in text or text.startswith((".", "~", "checkpoint-", "weights-")):
        return _by_path(expanded(text), known)
    raise _unknown(f"{known.run} has no checkpoint called {text!r}", text, known)


def _best(known: Known) -> Checkpoint:
    if known.best is None:
        raise CheckpointNotFound(f"{known.run} has no best checkpoint: {known.why_no_best}", hint=_what_there_is(known))
    return known.best


def _latest(known: Known) -> Checkpoint:
    if not known.checkpoints:
        raise CheckpointNotFound(f"{known.run} has no checkpoint yet")
    return known.checkpoints[-1]


def _by_step(step: int, known: Known) -> Checkpoint:
    for checkpoint in reversed(known.checkpoints):
        if checkpoint.step == step:
            return checkpoint
    raise _unknown(f"{known.run} has no checkpoint of step {step}", str(step), known)


def _by_tag(tag: str, known: Known) -> Checkpoint:
    generation = known.pins.tags[tag]
    for checkpoint in known.checkpoints:
        if checkpoint.generation == generation:
            return checkpoint
    raise CheckpointNotFound(
        f"tag {tag!r} of {known.run} names generation {generation}, which is not there", hint=_what_there_is(known)
    )


def _by_path(path: Path, known: Known) -> Checkpoint:
    wanted = {_absolute(checkpoint_of(place)) for place in places(os.fspath(path), known.run)}
    home = _absolute(known.run)  # once: a checkpoint's own directory is never a link
    if _absolute(path) == home:
        return _latest(known)
    for checkpoint in known.checkpoints:
        if os.path.join(home, checkpoint.name) in wanted:
            return checkpoint
    raise _unknown(f"{path} is no checkpoint of {known.run}", path.name, known)


def _absolute(path: Path) -> str:
    return os.path.realpath(path)


def _unknown(message: str, text: str, known: Known) -> CheckpointNotFound:
    near = _nearest_step(int(text), known) if text.isdigit() else _closest_name(text, known)
    meant = f"Did you mean {near!r}? " if near else ""
    return CheckpointNotFound(message, hint=meant + _what_there_is(known))


def _nearest_step(step: int, known: Known) -> str:
    steps = sorted((checkpoint.step for checkpoint in known.checkpoints), key=lambda other: (abs(other - step), -other))
    return str(steps[0]) if steps else ""


def _closest_name(text: str, known: Known) -> str:
    import difflib

    names = [*(checkpoint.name for checkpoint in known.checkpoints), *known.pins.tags, "best", "latest"]
    return next(iter(difflib.get_close_matches(text, names, n=1, cutoff=0.6)), "")


def _what_there_is(known: Known) -> str:
    if not known.checkpoints:
        return "It has no checkpoint yet."
    steps = ", ".join(str(checkpoint.step) for checkpoint in known.checkpoints[-20:])
    more = f" (and {len(known.checkpoints) - 20} older)" if len(known.checkpoints) > 20 else ""
    tags = f"; tags: {', '.join(sorted(known.pins.tags))}" if known.pins.tags else ""
    return f"There are steps {steps}{more}{tags}."
