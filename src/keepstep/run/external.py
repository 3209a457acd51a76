"""A checkpoint outside of the run, named by its path: another run's, a download, or one that stock tools wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from keepstep import layout
from keepstep.errors import CheckpointNotFound, KeepstepError, ResumeRefused
from keepstep.model import Checkpoint, Kind, parse_name
from keepstep.repository import MANIFEST_NAME, Check, Repository, missing_files
from keepstep.run.pins import RESERVED, PinBoard
from keepstep.run.references import Reference
from keepstep.run.resume_point import ResumePoint
from keepstep.run.run import Run
from keepstep.run.spelling import TRAINER_STATE_NAME, is_checkpoint, places, spelled
from keepstep.stores import LocalStore, store_at

NO_GENERATION = 0
"""The generation of a checkpoint without a manifest; a run's own begin at 1."""
HUB_NAME = "last-checkpoint"
"""What the newest checkpoint is called on the Hub (`hub_strategy="checkpoint"`), and in a download of it."""


def external_path(reference: Reference | bool | None, run: Path) -> Path | None:
    """The directory that a reference names outside of the run's own checkpoints, None when it names none.

    A path is looked for from here, then from the run's directory; so is a plain word that names a checkpoint and is
    neither a reference nor a tag. Whoever wants the newest of a directory without any checkpoint gets the
    `last-checkpoint` that was downloaded into it.
    """
    if reference is True or (isinstance(reference, str) and reference in ("auto", "latest")):
        return _downloaded(run)
    if reference is None or reference is False or isinstance(reference := spelled(reference), int):
        return None
    found = next((path for path in _places(reference, run) if path.is_dir()), None)
    return None if found is None or _is_the_runs(found, run) else found


def _downloaded(run: Path) -> Path | None:
    path = run / HUB_NAME
    return path if is_checkpoint(path) and not any(parse_name(name) for name in os.listdir(run)) else None


def _places(reference: str | os.PathLike[str], run: Path) -> Iterator[Path]:
    """Where the directory that a reference may name would lie."""
    text = os.fspath(reference)
    if not isinstance(reference, str) or os.sep in text or text.startswith((".", "~")) or parse_name(text):
        yield from places(text, run)
    elif not (text.strip().lower() in RESERVED or text.removeprefix("step:").isdigit()):
        found = [place for place in places(text, run) if is_checkpoint(place)]
        if found and text not in PinBoard(LocalStore(run)).read().tags:
            yield from found


def _is_the_runs(path: Path, run: Path) -> bool:
    """True for a checkpoint that the run itself has under that name, or has set aside, and for a directory that only it
    can judge.
    """
    real, home = Path(os.path.realpath(path)), Path(os.path.realpath(run))
    parsed = parse_name(real.name)
    aside = any(real.is_relative_to(home / room) for room in (layout.TIMELINES, layout.QUARANTINE))
    if parsed is None or not (aside or real.parent == home) or not (real / MANIFEST_NAME).exists():
        return False
    try:
        checkpoint = Repository(LocalStore(real.parent), "").read_manifest(real.name)
        return (checkpoint.kind, checkpoint.step) == parsed and checkpoint.run_id == Run.open(run).id
    except (OSError, KeepstepError):
        return not aside


def open_external(path: Path, check: Check | None = None) -> ResumePoint:
    """A resume point in a directory of its own: verified when it has a manifest, unverified when it has none.

    `check` takes the place of the repository's, for a caller that keeps what it reads.
    Raises CheckpointNotFound when there is no such directory, ResumeRefused when it is damaged or weights only.
    """
    if not path.is_dir():
        raise CheckpointNotFound(f"{path} is no directory", hint="Give the path of a checkpoint, or a step of the run.")
    if not (path / MANIFEST_NAME).exists():
        return ResumePoint(_without_manifest(path), f"{path}, asked for by path; it has no manifest to verify it by")
    path = Path(os.path.abspath(path))  # "." has no name of its own
    repository = Repository(store_at(path.parent), "")
    checkpoint = repository.read_manifest(path.name)
    if checkpoint.kind is not Kind.FULL:
        raise _weights_only(path, checkpoint.lost)
    verification = (check or repository.verify)(checkpoint)
    if verification.ok and verification.lost:
        raise _weights_only(path, verification.lost)
    if not verification.resumable:
        problems = "; ".join(map(str, verification.problems))
        raise ResumeRefused(f"{path} is damaged: {problems}", hint="Give another checkpoint.")
    point = ResumePoint(checkpoint, f"{path}, asked for by path; verified", harmless=verification.problems)
    point.say_what_is_odd()
    return point


def _weights_only(path: Path, lost: tuple[str, ...]) -> ResumeRefused:
    why = missing_files(lost) if lost else "no optimizer state to resume from"
    return ResumeRefused(f"{path} holds weights only: {why}", hint="Give a full one.")


def _without_manifest(path: Path) -> Checkpoint:
    parsed = parse_name(path.name)
    return Checkpoint(
        run_id="",
        generation=NO_GENERATION,
        timeline=1,
        parent=None,
        step=parsed[1] if parsed else _step_of(path),
        epoch=None,
        kind=Kind.FULL,
        created=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        metrics={},
        files=(),
        path=path,
    )


def _step_of(path: Path) -> int:
    """The step that the trainer's own state names, 0 where it names none."""
    try:
        data = store_at(path).read(TRAINER_STATE_NAME, limit=layout.SMALL_FILE_LIMIT)
        return max(msgspec.json.decode(data, type=_TrainerState).global_step, 0)
    except (OSError, *layout.NOT_JSON):
        return 0


class _TrainerState(msgspec.Struct):
    global_step: int
