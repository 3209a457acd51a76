"""Where it is safe to go on from: chosen among a run's checkpoints, and verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keepstep.errors import CheckpointNotFound, ResumeRefused
from keepstep.model import Checkpoint, Kind
from keepstep.references import Reference
from keepstep.repository import Foreign
from keepstep.verification import Check, Verification

if TYPE_CHECKING:
    from keepstep.run import Run


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where it is safe to go on from, why, and which newer ones were passed over for what.

    `passed_over` are damaged checkpoints, `unusable` directories whose manifest is missing or can't be read.
    """

    checkpoint: Checkpoint
    reason: str
    passed_over: tuple[Verification, ...] = ()
    unusable: tuple[Foreign, ...] = ()

    @property
    def path(self) -> Path:
        assert self.checkpoint.path is not None
        return self.checkpoint.path


def resume_point(run: Run, reference: Reference, check: Check) -> ResumePoint:
    """The newest checkpoint of a run that holds, or exactly the one that is named, as `Run.resume_point` says."""
    if isinstance(reference, str) and reference in ("auto", "latest"):
        return _newest(run, check)
    checkpoint = run.find(reference)
    if checkpoint.kind is not Kind.FULL:
        raise ResumeRefused(
            f"step {checkpoint.step} of {run.path} holds weights only, no optimizer state to resume from",
            hint=f"Start a new run from its weights (from_pretrained({str(checkpoint.path)!r})), write them as a model "
            f"(keepstep export {run.path} {_name(checkpoint, reference)} DIR), or resume from another one: "
            + _resumable_steps(run),
        )
    verification = check(checkpoint)
    if not verification.ok:
        raise ResumeRefused(
            f"step {checkpoint.step} of {run.path} is damaged: " + "; ".join(map(str, verification.problems)),
            hint="Resume from another one: " + _resumable_steps(run, but=checkpoint),
        )
    return ResumePoint(checkpoint, f"step {checkpoint.step}, asked for as {str(reference)!r}; verified")


def _name(checkpoint: Checkpoint, reference: Reference) -> str:
    """What a command line names the checkpoint by."""
    return str(reference) if isinstance(reference, str) and reference in ("best", "latest") else str(checkpoint.step)


def _newest(run: Run, check: Check) -> ResumePoint:
    passed: list[Verification] = []
    for checkpoint in reversed([c for c in run.checkpoints if c.resumable]):
        verification = check(checkpoint)
        if verification.ok:
            why = "the newest checkpoint" if not passed else "the newest checkpoint that holds"
            return ResumePoint(checkpoint, f"step {checkpoint.step}: {why}; verified", tuple(passed))
        passed.append(verification)
    if passed:
        raise CheckpointNotFound(
            f"{run.path} has no valid checkpoint left: " + "; ".join(v.summary() for v in passed),
            hint=f"Inspect them with: keepstep verify {run.path}",
        )
    raise CheckpointNotFound(f"{run.path} has no checkpoint to resume from", hint=_why_nothing(run))


def _resumable_steps(run: Run, but: Checkpoint | None = None) -> str:
    steps = [str(checkpoint.step) for checkpoint in run.checkpoints if checkpoint.resumable and checkpoint != but]
    return f"steps {', '.join(steps)}" if steps else "there is none"


def _why_nothing(run: Run) -> str:
    listing = run.repository.listing()
    if any(checkpoint.kind is Kind.WEIGHTS for checkpoint in listing.checkpoints):
        return (
            "Its checkpoints hold weights only (save_only_model=True): start a new run from the weights of one, "
            "in another output_dir."
        )
    if listing.foreign:
        return "; ".join(f"{foreign.path.name} is not one: {foreign.reason}" for foreign in listing.foreign)
    return "Nothing was saved yet."
