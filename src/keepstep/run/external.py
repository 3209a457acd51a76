"""A checkpoint outside of the run, named by its path: another run's, or one that stock tools wrote."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from keepstep.errors import CheckpointNotFound, ResumeRefused
from keepstep.model import Checkpoint, Kind, parse_name
from keepstep.paths import expanded
from keepstep.repository import MANIFEST_NAME, Check, Repository
from keepstep.run.references import Reference
from keepstep.run.run import ResumePoint
from keepstep.stores import LocalStore

NO_GENERATION = 0
"""The generation of a checkpoint without a manifest; a run's own begin at 1."""


def external_path(reference: Reference | bool | None, run: Path) -> Path | None:
    """The directory that a reference names outside of the run's own checkpoints, None when it names none.

    Inside the run directory only what has no manifest counts: the rest is the run's to judge.
    """
    if reference is None or isinstance(reference, (bool, int)):
        return None
    text = os.fspath(reference)
    path = expanded(text)
    written_as_path = not isinstance(reference, str) or os.sep in text or text.startswith((".", "~"))
    if not written_as_path and parse_name(text) is None:
        return None
    inside = os.path.realpath(path.parent) == os.path.realpath(run)
    if inside and ((path / MANIFEST_NAME).exists() or not path.is_dir()):
        return None
    return path if path.is_dir() else None


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
    store = LocalStore(path.parent)
    repository = Repository(store, "")
    checkpoint = repository.read_manifest(path.name)
    problems = (check or repository.verify)(checkpoint).problems
    if problems:
        raise ResumeRefused(f"{path} is damaged: " + "; ".join(map(str, problems)), hint="Give another checkpoint.")
    if checkpoint.kind is not Kind.FULL:
        raise ResumeRefused(f"{path} holds weights only, no optimizer state to resume from", hint="Give a full one.")
    return ResumePoint(checkpoint, f"{path}, asked for by path; verified")


def _without_manifest(path: Path) -> Checkpoint:
    parsed = parse_name(path.name)
    return Checkpoint(
        run_id="",
        generation=NO_GENERATION,
        timeline=1,
        parent=None,
        step=parsed[1] if parsed else 0,
        epoch=None,
        kind=Kind.FULL,
        created=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        metrics={},
        files=(),
        path=path,
    )
