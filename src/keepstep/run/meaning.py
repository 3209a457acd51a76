"""What a training is asked to resume from, where it is said in another way than ours: what can be meant is meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, cast

from keepstep.errors import KeepstepError
from keepstep.log import logger
from keepstep.model import parse_name
from keepstep.run.pins import PinBoard
from keepstep.run.references import Reference
from keepstep.run.run import Run
from keepstep.run.spelling import checkpoint_of, is_checkpoint, places, spelled
from keepstep.stores import LocalStore

Resume = Reference | Literal[False] | None
"""What a training is to resume from; None and False are a fresh start."""
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "none": None, "null": None}


def meant(resume: Any, run: Path) -> Resume:
    """What `resume` means for the run in that directory; where it had to be read in another way, one line says how.

    `"True"`, `"False"` and `"None"` are words of a command line; numbers may be numpy's; a file inside of a checkpoint
    stands for that checkpoint, and a directory of checkpoints for the newest in it. Raises ReferenceInvalid.
    """
    if resume is None or isinstance(resume, bool):
        return resume
    if isinstance(resume, str) and resume.strip().lower() in _WORDS:
        word = _WORDS[resume.strip().lower()]
        _say(resume, f"{word}: {'the newest checkpoint' if word else 'a fresh start'}")
        return word
    if getattr(resume, "ndim", None) == 0:  # a number of numpy, or a tensor of one
        return meant(cast(Any, resume).item(), run)
    reference = spelled(resume)
    if isinstance(reference, int) or not _is_path(reference, run):
        return reference
    found = next((place for place in places(os.fspath(reference), run) if place.exists()), None)
    return reference if found is None else _by_path(resume, reference, found, run)


def _by_path(resume: Any, reference: Reference, path: Path, run: Path) -> Reference:
    checkpoint = checkpoint_of(path)
    if checkpoint != path:
        _say(resume, f"the checkpoint that this file lies in, {checkpoint}")
        return checkpoint
    if not path.is_dir() or is_checkpoint(path):
        return reference
    if os.path.realpath(path) == os.path.realpath(run):
        _say(resume, "the run's own directory: the newest checkpoint in it")
        return "latest"
    newest = _newest_in(path)
    if newest is None:
        return reference
    _say(resume, f"a directory of checkpoints: the newest in it, {newest}")
    return newest


def _is_path(reference: str | os.PathLike[str], run: Path) -> bool:
    """True for what is written as a path, and for the bare name of the run's directory where it is no tag."""
    if not isinstance(reference, str) or os.sep in reference or reference.startswith((".", "~")):
        return True
    own = os.path.realpath(reference) == os.path.realpath(run)
    return own and run.is_dir() and reference not in PinBoard(LocalStore(run)).read().tags


def _newest_in(directory: Path) -> Path | None:
    """The newest that can be resumed from: of a run by its order, else by step."""
    try:
        known = [c for c in Run.open(directory).checkpoints if c.resumable]
        if known:
            return known[-1].path
    except (OSError, KeepstepError):
        pass
    steps = [(found[1], path) for path in directory.iterdir() if (found := parse_name(path.name)) and path.is_dir()]
    full = [(step, path) for step, path in steps if path.name.startswith("checkpoint-")]
    return max(full, default=(0, None))[1]


def _say(resume: Any, means: str) -> None:
    logger.info("resume from %r is taken as %s", str(resume), means)
