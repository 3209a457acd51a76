"""Checking checkpoints byte by byte: all of a run, one of them, or down the ranking to the best that holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstep.errors import CheckpointCorrupt, CheckpointNotFound
from keepstep.model import Checkpoint, State, parse_name
from keepstep.repository import MANIFEST_NAME, OnBytes, Problem, Verification, missing_files
from keepstep.run import Reference, ResumePoint, Run
from keepstep.stores import Entry


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome for one directory; `verification` is None where the manifest itself can't be read.

    `moved_to` is where a bad one was put.
    """

    path: Path
    step: int
    problems: tuple[Problem, ...]
    verification: Verification | None = None
    moved_to: Path | None = None
    place: str = ""
    """Where it lies, for one of a mirror, which has no path."""

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def added(self) -> tuple[Entry, ...]:
        """What lies there beside the checkpoint, and no loader reads."""
        return () if self.verification is None else self.verification.added

    @property
    def lost(self) -> tuple[str, ...]:
        """Paths of files that a resume needs and that are gone: it holds weights."""
        if self.verification is None:
            return ()
        return tuple(sorted({*self.verification.checkpoint.lost, *self.verification.lost}))

    @property
    def missing(self) -> tuple[str, ...]:
        """Paths of files that are gone, those that nothing needs too."""
        found = () if self.verification is None else self.verification.missing
        return tuple(sorted({*self.lost, *(file.path for file in found)}))

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint, None where its manifest can't be read."""
        return None if self.verification is None else self.verification.checkpoint

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines: sizes in bytes."""
        checkpoint = self.checkpoint
        return {
            "step": self.step,
            "generation": None if checkpoint is None else checkpoint.generation,
            "path": self.place or str(self.path),
            "size_bytes": None if checkpoint is None else checkpoint.size_bytes,
            "ok": self.ok,
            "problems": [{"path": problem.path, "what": problem.what} for problem in self.problems],
            "moved_to": None if self.moved_to is None else str(self.moved_to),
            "resumable": self.verification is not None and self.verification.resumable,
            "missing": list(self.missing),
            "added": [{"path": e.path, "kind": e.kind, "size_bytes": e.size} for e in self.added],
        }


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a check will read: checkpoints by generation, and directories whose manifest can't be read."""

    checkpoints: tuple[Checkpoint, ...]
    unreadable: tuple[Checked, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes to hash."""
        return sum(checkpoint.size_bytes for checkpoint in self.checkpoints)


def candidates(run: Run, reference: Reference | None = None) -> Candidates:
    """All checkpoints of a run, or the one that a reference names. Raises CheckpointNotFound."""
    bad_manifests = unreadable(run)
    if reference is None:
        return Candidates(run.checkpoints, bad_manifests)
    try:
        return Candidates((run.find(reference, aside=True),), ())
    except CheckpointNotFound:
        named = tuple(checked for checked in bad_manifests if _names(reference, checked))
        if not named:
            raise
        return Candidates((), named)


def check(
    run: Run,
    found: Candidates,
    *,
    quarantine: bool = False,
    on_start: Callable[[Checkpoint], None] | None = None,
    on_bytes: OnBytes | None = None,
) -> tuple[Checked, ...]:
    """Read every byte of the candidates; outcomes go to the event log, where that can be written.

    With `quarantine` (the run's lock must be held) bad checkpoints are moved aside. What has no readable
    manifest is reported and left where it is: nothing proves that it is this run's.
    """
    outcomes: list[Checked] = []
    for checkpoint in found.checkpoints:
        if on_start is not None:
            on_start(checkpoint)
        verification = run.verify(checkpoint, on_bytes)
        note(run, verification)
        moved_to = run.quarantine(verification) if quarantine and _goes_to_quarantine(verification) else None
        path = checkpoint.path or run.path / checkpoint.name
        place = run.place_of(checkpoint) if run.remote else ""
        outcomes.append(Checked(path, checkpoint.step, verification.problems, verification, moved_to, place))
    return tuple(sorted((*outcomes, *found.unreadable), key=lambda checked: checked.step))


def _goes_to_quarantine(verification: Verification) -> bool:
    """True for a damaged one that lies elsewhere, and is of this run."""
    return not verification.ok and verification.checkpoint.state in (State.COMMITTED, State.SET_ASIDE)


def safe_to_resume(run: Run, reference: Reference, on_bytes: OnBytes | None = None) -> ResumePoint:
    """The run's resume point; what was passed over goes to the event log.

    Raises CheckpointNotFound when there is none, ResumeRefused when the named one can't be resumed from.
    """
    point = run.resume_point(reference, on_bytes)
    for verification in point.passed_over:
        note(run, verification)
    return point


def best_that_holds(run: Run, on_bytes: OnBytes | None = None) -> ResumePoint:
    """The best checkpoint by the run's metric whose weights hold; what only a resume needs may be damaged or gone.

    Raises CheckpointNotFound when none can be ranked, or none of them holds.
    """
    passed: list[Verification] = []
    metric = run.policy.metric
    for place, checkpoint in enumerate(run.ranking(spoiled=True), start=1):
        verification = run.look_at(checkpoint, on_bytes)
        if not verification.ok or verification.lost or checkpoint.damage:
            note(run, verification)
        if verification.holds_weights and metric is not None:
            value = metric.value(checkpoint.metrics)
            which = "best" if place == 1 else f"best that holds (rank {place})"
            reason = f"step {checkpoint.step}: {which} by {metric.name} ({value:.6g}, {metric.direction}); {run.proof}"
            return ResumePoint(checkpoint, reason + _but(verification) + _unloaded(run, checkpoint), tuple(passed))
        passed.append(verification)
    if not passed:
        run.find("best")
    raise CheckpointNotFound(
        f"{run.address} has no best checkpoint that holds: " + "; ".join(v.summary() for v in passed),
        hint=f"Inspect them with: keepstep verify {run.address}",
    )


def _but(verification: Verification) -> str:
    """What of a checkpoint whose weights hold does not, as the end of a sentence."""
    wrong = [str(problem) for problem in verification.problems]
    wrong += [missing_files(verification.lost)] if verification.lost else []
    return f". Its weights hold, but {'; '.join(wrong)}" if wrong else ""


def _unloaded(run: Run, checkpoint: Checkpoint) -> str:
    """What its training said when it loaded it as the best, as a sentence; empty where it came back."""
    why = run.events.unloaded().get(checkpoint.generation)
    return f". At the end of its training it did not come back into the model: {why}" if why else ""


def note(run: Run, verification: Verification) -> None:
    """Log an outcome; a run on a read-only disk can be checked all the same."""
    with suppress(OSError):
        run.note_verified(verification)


def unreadable(run: Run) -> tuple[Checked, ...]:
    """Directories that hold a manifest which can't be read, as opposed to none or another run's; by step."""
    return tuple(sorted(_unreadable(run), key=lambda checked: checked.step))


def _unreadable(run: Run) -> Iterator[Checked]:
    for foreign in run.foreign:
        parsed = parse_name(foreign.path.name)
        try:
            run.repository.read_manifest(foreign.path.name)
        except FileNotFoundError:
            continue
        except (OSError, CheckpointCorrupt) as error:
            what = error.message if isinstance(error, CheckpointCorrupt) else f"can't be read: {error.strerror}"
            what = what.removeprefix(f"{foreign.path / MANIFEST_NAME} ")
            yield Checked(foreign.path, parsed[1] if parsed else 0, (Problem(MANIFEST_NAME, what),))


def _names(reference: Reference, checked: Checked) -> bool:
    text = os.fspath(reference) if not isinstance(reference, int) else str(reference)
    name = os.path.basename(os.path.normpath(text.strip()))
    return name == checked.path.name or name.removeprefix("step:") == str(checked.step)
