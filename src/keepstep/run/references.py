"""References to checkpoints as people write them: best, latest, 300, step:300, gen:7, a tag, a path, previous:ID."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from keepstep.errors import CheckpointNotFound, ReferenceInvalid
from keepstep.model import Checkpoint, State
from keepstep.paths import expanded
from keepstep.repository import PreviousRun
from keepstep.run.pins import Pins
from keepstep.run.spelling import checkpoint_of, places, spelled

Reference = str | int | os.PathLike[str]
GENERATION, PREVIOUS = "gen:", "previous:"
"""How references to any generation and to previous runs begin."""
MOST_NAMED = 20
"""Checkpoints that an error names; the older ones are counted."""


class Known(msgspec.Struct, frozen=True):
    """What a reference can point to: the run's checkpoints by generation, its best one, its pins and tags.

    `aside` and `previous` give what lies aside and the previous runs; they are asked only where it matters. `inside`
    is what a reference into a previous run can point to. Without `reaches` what lies aside is named in errors alone.
    """

    run: Path
    checkpoints: Sequence[Checkpoint]
    best: Checkpoint | None
    why_no_best: str
    pins: Pins
    aside: Callable[[], Sequence[Checkpoint]] = tuple
    previous: Callable[[], Sequence[PreviousRun]] = tuple
    inside: Callable[[PreviousRun], Known] | None = None
    reaches: bool = False
    name: str = ""

    @property
    def called(self) -> str:
        """How people name the run."""
        return self.name or str(self.run)


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
    if _is_number(digits):
        return _by_step(int(digits), known)
    if _is_number(number := text.removeprefix(GENERATION)):
        return _by_generation(int(number), known)
    if text.startswith(PREVIOUS):
        return _of_previous(text.removeprefix(PREVIOUS), known)
    if text in known.pins.tags:
        return _by_tag(text, known)
    if os.sep in text or text.startswith((".", "~", "checkpoint-", "weights-")):
        return _by_path(expanded(text), known)
    raise _unknown(f"{known.called} has no checkpoint called {text!r}", text, known)


def way_back(checkpoint: Checkpoint) -> str:
    """The reference that names a checkpoint wherever it lies."""
    if checkpoint.state is not State.PREVIOUS:
        return f"{GENERATION}{checkpoint.generation}"
    return f"{PREVIOUS}{checkpoint.run_id}/{GENERATION}{checkpoint.generation}"


def previous_run(name: str, known: Known) -> PreviousRun:
    """The previous run of that id, or of the only one that begins so. Raises CheckpointNotFound."""
    runs = known.previous()
    found = [run for run in runs if run.name == name] or [run for run in runs if name and run.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if not runs:
        raise CheckpointNotFound(f"{known.called} has no previous run", hint=_what_there_is(known))
    listed = ", ".join(f"{PREVIOUS}{run.name}" for run in runs)
    what = f"{len(found)} previous runs whose ids begin with {name!r}" if found else f"no previous run {name!r}"
    raise CheckpointNotFound(f"{known.called} has {what}", hint=f"There is {listed}.")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _best(known: Known) -> Checkpoint:
    if known.best is None:
        raise CheckpointNotFound(
            f"{known.called} has no best checkpoint: {known.why_no_best}", hint=_what_there_is(known)
        )
    return known.best


def _latest(known: Known) -> Checkpoint:
    if not known.checkpoints:
        raise CheckpointNotFound(f"{known.called} has no checkpoint yet", hint=_lying_aside(known))
    return known.checkpoints[-1]


def _by_step(step: int, known: Known) -> Checkpoint:
    for checkpoint in reversed(known.checkpoints):
        if checkpoint.step == step:
            return checkpoint
    raise _unknown(f"{known.called} has no checkpoint of step {step}", str(step), known)


def _by_generation(generation: int, known: Known) -> Checkpoint:
    for checkpoint in known.checkpoints:
        if checkpoint.generation == generation:
            return checkpoint
    aside = [checkpoint for checkpoint in known.aside() if checkpoint.generation == generation]
    if len(aside) > 1:
        paths = ", ".join(str(checkpoint.path) for checkpoint in aside)
        raise CheckpointNotFound(
            f"{known.called} has {len(aside)} of generation {generation}", hint=f"Name one: {paths}"
        )
    if aside:
        return _reached(aside[0], known)
    raise CheckpointNotFound(f"{known.called} has nothing of generation {generation}", hint=_what_there_is(known))


def _by_tag(tag: str, known: Known) -> Checkpoint:
    generation = known.pins.tags[tag]
    for checkpoint in (*known.checkpoints, *known.aside()):
        if checkpoint.generation == generation:
            return _reached(checkpoint, known)
    raise CheckpointNotFound(
        f"tag {tag!r} of {known.called} names generation {generation}, which is not there", hint=_what_there_is(known)
    )


def _by_path(path: Path, known: Known) -> Checkpoint:
    wanted = {_absolute(checkpoint_of(place)) for place in places(os.fspath(path), known.run)}
    home = _absolute(known.run)  # once: a checkpoint's own directory is never a link
    if _absolute(path) == home:
        return _latest(known)
    for checkpoint in known.checkpoints:
        if os.path.join(home, checkpoint.name) in wanted:
            return checkpoint
    if any(os.path.isdir(place) for place in wanted):
        for checkpoint in (*known.aside(), *(c for run in known.previous() for c in run.checkpoints)):
            if checkpoint.path is not None and _absolute(checkpoint.path) in wanted:
                return _reached(checkpoint, known)
    raise _unknown(f"{path} is no checkpoint of {known.called}", path.name, known)


def _of_previous(text: str, known: Known) -> Checkpoint:
    """`ID`, its newest one to resume from (or else its newest), or `ID/REF`."""
    name, _, reference = text.partition("/")
    run = previous_run(name, known)
    assert known.inside is not None
    inside = known.inside(run)
    if reference:
        return _reached(resolve(reference, inside), known)
    whole = [c for c in inside.checkpoints if c.saved_whole and not c.damage]
    found = whole or inside.checkpoints or inside.aside()
    if not found:
        raise CheckpointNotFound(f"{known.called} has nothing left of the previous run {run.name}")
    return _reached(found[-1], known)


def _reached(checkpoint: Checkpoint, known: Known) -> Checkpoint:
    if known.reaches or any(c is checkpoint for c in known.checkpoints):
        return checkpoint
    reference = way_back(checkpoint)
    raise CheckpointNotFound(
        f"step {checkpoint.step} (generation {checkpoint.generation}) of {known.called} is {checkpoint.state.value}: "
        f"it lies in {checkpoint.path}",
        hint=f"Bring it back: keepstep restore {known.called} {reference}",
    )


def _absolute(path: Path) -> str:
    return os.path.realpath(path)


def _unknown(message: str, text: str, known: Known) -> CheckpointNotFound:
    near = _lying_there(text, known)
    near = near or (_nearest_step(int(text), known) if text.isdigit() else _closest_name(text, known))
    meant = f"Did you mean {near!r}? " if near else ""
    return CheckpointNotFound(message, hint=meant + _what_there_is(known))


def _lying_there(text: str, known: Known) -> str:
    """The newest of exactly that step, or that directory name, which lies aside."""
    for checkpoint in reversed(known.aside()):
        if text in (str(checkpoint.step), checkpoint.name):
            return way_back(checkpoint)
    return ""


def _nearest_step(step: int, known: Known) -> str:
    steps = sorted((checkpoint.step for checkpoint in known.checkpoints), key=lambda other: (abs(other - step), -other))
    return str(steps[0]) if steps else ""


def _closest_name(text: str, known: Known) -> str:
    import difflib

    names = [*(checkpoint.name for checkpoint in known.checkpoints), *known.pins.tags, "best", "latest"]
    names += [way_back(checkpoint) for checkpoint in (*known.checkpoints, *known.aside())] if ":" in text else []
    return next(iter(difflib.get_close_matches(text, names, n=1, cutoff=0.6)), "")


def _what_there_is(known: Known) -> str:
    aside = _lying_aside(known)
    if not known.checkpoints:
        return f"It has no checkpoint yet. {aside}".rstrip()
    steps = ", ".join(str(checkpoint.step) for checkpoint in known.checkpoints[-MOST_NAMED:])
    older = len(known.checkpoints) - MOST_NAMED
    more = f" (and {older} older)" if older > 0 else ""
    tags = f"; tags: {', '.join(sorted(known.pins.tags))}" if known.pins.tags else ""
    return f"There are steps {steps}{more}{tags}. {aside}".rstrip()


def _lying_aside(known: Known) -> str:
    """What can be named that lies aside, as a sentence; empty where nothing does."""
    lying, runs = known.aside(), known.previous()
    parts = [f"{way_back(c)} (step {c.step}, {c.state.value})" for c in lying[-MOST_NAMED:]]
    parts += [f"{len(lying) - MOST_NAMED} older"] if len(lying) > MOST_NAMED else []
    parts += [f"{PREVIOUS}{run.name} (a run of {len(run.checkpoints)})" for run in runs[-MOST_NAMED:]]
    return f"Aside: {', '.join(parts)}." if parts else ""
